#include "cli/attach_socket.h"

#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/message_socket.h"
#include "base/unix_socket.h"
#include "cli/source_message.h"

namespace plumb {
namespace {

using Json = nlohmann::json;
using Descriptor = boost::asio::posix::stream_descriptor;

constexpr std::chrono::seconds kPatience{10};

Result<> send_json(int socket, const Json& json, std::span<const int> fds = {}) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return send_message(socket, std::as_bytes(std::span(text)), fds);
}

Result<ReceivedMessage> exchange(int socket, const Json& message, const std::vector<int>& fds) {
  TRY(send_json(socket, message, fds));
  return receive_message(socket, AttachServer::kMaxMessageBytes);
}

Result<Json> parse(std::span<const std::byte> bytes) {
  Json json =
      Json::parse(reinterpret_cast<const char*>(bytes.data()),
                  reinterpret_cast<const char*>(bytes.data() + bytes.size()), nullptr, false);
  if (!json.is_object()) return failed("a message is not a JSON object");
  return json;
}

}  // namespace

struct AttachServer::State : std::enable_shared_from_this<State> {
  State(boost::asio::io_context& io, int listening, std::string socket_path, Handler handle)
      : context(io),
        listener(io, listening),
        path(std::move(socket_path)),
        handler(std::move(handle)) {}

  boost::asio::io_context& context;
  Descriptor listener;
  std::string path;
  Handler handler;  // empty: the server is gone
  unsigned connections = 0;

  void accept();
  void serve(const std::shared_ptr<Descriptor>& connection);
  Result<Json> answer(int connection);
};

void AttachServer::State::accept() {
  listener.async_wait(Descriptor::wait_read,
                      [self = shared_from_this()](const boost::system::error_code& error) {
                        if (error || !self->handler) return;
                        UniqueFd fd(::accept4(self->listener.native_handle(), nullptr, nullptr,
                                              SOCK_CLOEXEC | SOCK_NONBLOCK));
                        if (fd && self->connections < kMaxConnections) {
                          self->serve(std::make_shared<Descriptor>(self->context, fd.release()));
                        }
                        self->accept();
                      });
}

void AttachServer::State::serve(const std::shared_ptr<Descriptor>& connection) {
  ++connections;
  // Ends the wait for a client that sends nothing.
  auto patience = std::make_shared<boost::asio::steady_timer>(context, kPatience);
  patience->async_wait([connection](const boost::system::error_code& error) {
    if (!error) connection->cancel();
  });
  connection->async_wait(Descriptor::wait_read, [self = shared_from_this(), connection,
                                                 patience](const boost::system::error_code& error) {
    --self->connections;
    patience->cancel();
    if (error || !self->handler) return;
    Result<Json> answer = self->answer(connection->native_handle());
    const Json reply = answer.ok() ? answer.value()
                                   : Json{{"error", answer.error().message},
                                          {"kind", static_cast<int>(answer.error().kind)}};
    if (Result<> sent = send_json(connection->native_handle(), reply); !sent) {
      log::warning("who attached a disk got no answer: {}", sent.error().message);
    }
  });
}

Result<Json> AttachServer::State::answer(int connection) {
  ReceivedMessage message = TRY(receive_message(connection, kMaxMessageBytes, kSourceFds));
  const Json json = TRY(parse(message.bytes));
  if (!json.contains("disk") || !json.contains("source")) {
    return failed("a message without disk or source");
  }
  const DiskDefinition disk = TRY(disk_from_json(json["disk"]));
  return handler(disk, TRY(source_from_json(json["source"], std::move(message.fds))));
}

Result<std::unique_ptr<AttachServer>> AttachServer::listen(boost::asio::io_context& context,
                                                           const std::string& path,
                                                           Handler handler) {
  UniqueFd listener = TRY(listen_unix(path, kMaxConnections, SOCK_SEQPACKET));
  auto state = std::make_shared<State>(context, listener.release(), path, std::move(handler));
  state->accept();
  return std::unique_ptr<AttachServer>(new AttachServer(std::move(state)));
}

AttachServer::AttachServer(std::shared_ptr<State> state) : state_(std::move(state)) {}

AttachServer::~AttachServer() {
  state_->handler = nullptr;
  boost::system::error_code ignored;
  state_->listener.close(ignored);
  ::unlink(state_->path.c_str());
}

Result<Json> hand_over_disk(const std::string& path, const DiskDefinition& disk,
                            const DiskSource& source) {
  const UniqueFd socket = TRY(connect_unix(path, SOCK_SEQPACKET));
  const Json message{{"disk", disk_to_json(disk)}, {"source", source_to_json(source)}};
  Result<ReceivedMessage> received = exchange(socket.get(), message, source_fds(source));
  const int error = received.ok() ? 0 : received.error().os_errno;
  const bool closed = error == EPIPE || error == ECONNRESET;
  if (closed || (received.ok() && received->bytes.empty())) {
    return failed("the VM ended, or takes no more disks now");
  }
  if (!received.ok()) return std::move(received).error();
  const Json answer = TRY(parse(received->bytes));
  if (!answer.contains("error")) return answer;
  return make_error(static_cast<ErrorKind>(answer.value("kind", 0)), "{}",
                    answer.value("error", "no reason given"));
}

}  // namespace plumb
