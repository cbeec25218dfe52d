#include "snapshot/guest_agent.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

Error no_answer(int os_errno, std::string_view what) {
  return {ErrorKind::kFailed, os_errno, std::string(what)};
}

// Positive, and no other's: the ids of those who had the port before are no longer than this.
int64_t first_id() {
  uint64_t random = 0;
  if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) random = 1;
  return static_cast<int64_t>(random >> 2U) + 1;
}

}  // namespace

// Nothing that was asked or answered so far counts any more.
Error GuestAgent::lost(Error error) {
  in_step_ = false;
  if (error.os_errno == EPIPE) disconnect();
  return error;
}

void GuestAgent::disconnect() {
  socket_.reset();
  lines_.clear();
  in_step_ = false;
}

Result<> GuestAgent::wait(short events, Deadline deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd watched[] = {{socket_.get(), events, 0}, {config_.cancel_fd, POLLIN, 0}};
    const int ready = ::poll(watched, 2, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (ready < 0 && errno != EINTR) return os_error(errno, "the guest agent cannot be waited for");
    if (ready > 0 && watched[1].revents != 0) {
      return no_answer(ECANCELED, "the VM ends, and its guest agent is waited for no longer");
    }
    if (ready > 0 && watched[0].revents != 0) return {};
    if (left <= 0) return no_answer(ETIMEDOUT, "the guest agent does not answer in time");
  }
}

Result<> GuestAgent::send(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      TRY(wait(POLLOUT, deadline));
    } else if (errno != EINTR) {
      return no_answer(EPIPE, "the port of the guest agent has been closed");
    }
  }
  return {};
}

Result<std::string> GuestAgent::receive_line(Deadline deadline) {
  char buffer[16384];
  while (true) {
    if (std::optional<std::string> line = lines_.next()) return std::move(*line);
    TRY(wait(POLLIN, deadline));
    const ssize_t got = ::recv(socket_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
      return no_answer(EPIPE, "the port of the guest agent has been closed");
    }
    if (got > 0) TRY(lines_.add({buffer, static_cast<size_t>(got)}));
    // One that never stops sending is not listened to for longer than one that is silent.
    if (Clock::now() > deadline) {
      return no_answer(ETIMEDOUT, "the guest agent does not answer in time");
    }
  }
}

Result<> GuestAgent::sync_until(Deadline deadline) {
  in_step_ = false;
  if (!socket_) {
    Result<UniqueFd> connected = config_.connect();
    if (!connected) return no_answer(EPIPE, connected.error().message);
    socket_ = std::move(connected).value();
  }
  lines_.clear();
  last_id_ = last_id_ == 0 ? first_id() : last_id_ + 1;
  TRY(send(agent_sync_request(last_id_), deadline));
  while (true) {
    const std::string line = TRY(receive_line(deadline));
    if (is_sync_answer(line, last_id_)) break;
  }
  in_step_ = true;
  return {};
}

Result<> GuestAgent::sync(Timeout timeout) {
  Result<> done = sync_until(Clock::now() + timeout);
  if (!done) {
    Error error = lost(std::move(done).error());
    if (error.os_errno == ETIMEDOUT) {
      error.message = fmt::format(
          "no guest agent answers within {} ms; install and start qemu-guest-agent in the guest",
          timeout.count());
    }
    return error;
  }
  return {};
}

Result<Json> GuestAgent::call_until(std::string_view command, const Json& arguments,
                                    Deadline deadline) {
  if (!in_step_) TRY(sync_until(deadline));
  TRY(send(agent_request(command, arguments), deadline));
  return parse_agent_answer(command, TRY(receive_line(deadline)));
}

Result<Json> GuestAgent::call(std::string_view command, const Json& arguments, Timeout timeout) {
  Result<Json> answer = call_until(command, arguments, Clock::now() + timeout);
  if (answer || answer.error().os_errno == 0) return answer;
  Error error = lost(std::move(answer).error());
  if (error.os_errno == ETIMEDOUT) {
    error.message =
        fmt::format("the guest agent does not answer {} within {} ms", command, timeout.count());
  }
  return error;
}

Result<AgentInfo> GuestAgent::info(Timeout timeout) {
  return parse_agent_info(TRY(call("guest-info", nullptr, timeout)));
}

Result<GuestOs> GuestAgent::os(Timeout timeout) {
  return parse_guest_os(TRY(call("guest-get-osinfo", nullptr, timeout)));
}

Result<std::vector<GuestFileSystem>> GuestAgent::file_systems(Timeout timeout) {
  return parse_file_systems(TRY(call("guest-get-fsinfo", nullptr, timeout)));
}

Result<bool> GuestAgent::frozen(Timeout timeout) {
  return parse_frozen(TRY(call("guest-fsfreeze-status", nullptr, timeout)));
}

Result<unsigned> GuestAgent::freeze(const std::vector<std::string>& mountpoints, Timeout timeout) {
  const bool all = mountpoints.empty();
  const std::string_view command = all ? "guest-fsfreeze-freeze" : "guest-fsfreeze-freeze-list";
  const Json arguments = all ? Json() : Json{{"mountpoints", mountpoints}};
  return parse_agent_count(command, TRY(call(command, arguments, timeout)));
}

Result<unsigned> GuestAgent::thaw(Timeout timeout) {
  constexpr std::string_view kThaw = "guest-fsfreeze-thaw";
  return parse_agent_count(kThaw, TRY(call(kThaw, nullptr, timeout)));
}

Result<std::string> GuestAgent::read_file(const std::string& path, uint32_t limit_bytes,
                                          Timeout timeout) {
  const Json handle = TRY(call("guest-file-open", {{"path", path}, {"mode", "r"}}, timeout));
  if (!handle.is_number_integer()) {
    return lost({ErrorKind::kFailed, EPROTO, "the guest agent opens a file without a handle"});
  }
  Result<Json> read =
      call("guest-file-read", {{"handle", handle}, {"count", limit_bytes}}, timeout);
  Result<Json> closed = call("guest-file-close", {{"handle", handle}}, timeout);
  if (!read) return std::move(read).error();
  TRY(std::move(closed));
  return parse_file_content(*read);
}

}  // namespace plumb
