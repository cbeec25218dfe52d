// plumb-pr-broker: carries out PERSISTENT RESERVE commands for VMs, which have no capability to
// (docs/reservations.md). Takes its socket from systemd, or makes one.
//
// A thread for each connection: a LUN that does not answer keeps its own VM waiting, and no other.
// Who may connect is a matter of the socket's mode.
#include <fmt/core.h>
#include <grp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/message_socket.h"
#include "base/unix_socket.h"
#include "cli/exit_code.h"
#include "cli/sandbox.h"
#include "rdm/reservation_broker.h"

namespace plumb {
namespace {

constexpr int kMaxClients = 256;
constexpr int kBacklog = 128;
constexpr int kFirstSystemdFd = 3;  // sd_listen_fds(3)
constexpr int kNoDescriptorsPauseMs = 100;

constexpr std::string_view kUsage =
    "usage: plumb-pr-broker [--socket PATH [--group GROUP]]\n"
    "Carries out PERSISTENT RESERVE commands for VMs. Without --socket the listening socket comes\n"
    "from systemd (plumb-pr-broker.socket). --group: its members may connect, not only this user.\n"
    "Example: plumb-pr-broker --socket /run/plumb-pr-broker.sock --group plumb\n";

struct Options {
  std::string socket;
  std::string group;
  bool help = false;
};

Result<Options> parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--help") {
      options.help = true;
    } else if ((option == "--socket" || option == "--group") && i + 1 < argc) {
      (option == "--socket" ? options.socket : options.group) = argv[++i];
    } else {
      return usage_error("'{}' is not understood here; see plumb-pr-broker --help", option);
    }
  }
  if (!options.group.empty() && options.socket.empty()) {
    return usage_error("--group is for the socket that --socket makes; systemd sets its own");
  }
  return options;
}

int number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  int number = -1;
  if (text != nullptr) std::from_chars(text, text + std::string_view(text).size(), number);
  return number;
}

int socket_option(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof(value);
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

// The protocol of sd_listen_fds(3).
Result<UniqueFd> systemd_socket() {
  if (number_in_environment("LISTEN_PID") != ::getpid()) {
    return usage_error(
        "no socket comes from systemd: start plumb-pr-broker.socket, or use --socket");
  }
  if (number_in_environment("LISTEN_FDS") != 1) {
    return usage_error("systemd must hand over exactly one socket");
  }
  UniqueFd fd(kFirstSystemdFd);
  if (socket_option(fd.get(), SO_ACCEPTCONN) != 1 ||
      socket_option(fd.get(), SO_DOMAIN) != AF_UNIX ||
      socket_option(fd.get(), SO_TYPE) != SOCK_SEQPACKET) {
    return usage_error("the socket from systemd must be ListenSequentialPacket, of a path");
  }
  return fd;
}

Result<UniqueFd> own_socket(const Options& options) {
  UniqueFd fd = TRY(listen_unix(options.socket, kBacklog, SOCK_SEQPACKET));
  if (options.group.empty()) return fd;
  const group* entry = ::getgrnam(options.group.c_str());
  if (entry == nullptr) return usage_error("there is no group '{}'", options.group);
  if (::chown(options.socket.c_str(), static_cast<uid_t>(-1), entry->gr_gid) != 0 ||
      ::chmod(options.socket.c_str(), 0660) != 0) {
    return os_error(errno, "socket {} cannot be given to group {}", options.socket, options.group);
  }
  return fd;
}

std::string peer_of(int connection) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return "pid unknown";
  return fmt::format("pid {} uid {}", peer.pid, peer.uid);
}

void refuse(int connection, std::string reason) {
  // A peer that is gone needs no reason.
  static_cast<void>(send_message(connection, encode_reply({.refusal = std::move(reason)})).ok());
}

// One request and its reply. False when the connection should end; an error says how the peer broke
// the protocol.
Result<bool> serve_one(ReservationBroker& broker, int connection, const std::string& peer) {
  const ReceivedMessage message = TRY(receive_message(connection, kReservationMessageLimit));
  if (message.bytes.empty()) return false;
  const ReservationRequest request = TRY(decode_request(message.bytes));
  if (message.fds.empty()) return failed("a request comes without the LUN's descriptor");
  const ReservationReply reply = broker.serve(request, message.fds.front().get(), peer);
  return send_message(connection, encode_reply(reply)).ok();
}

void serve_client(ReservationBroker& broker, const UniqueFd& connection) {
  const std::string peer = peer_of(connection.get());
  while (true) {
    Result<bool> go_on = serve_one(broker, connection.get(), peer);
    if (!go_on && go_on.error().os_errno == 0) {
      log::warning("{}: disconnected: {}", peer, go_on.error().message);
      refuse(connection.get(), std::move(go_on).error().message);
      return;
    }
    if (!go_on || !go_on.value()) return;
  }
}

// Holds one of kMaxClients places, which is free again when it goes.
class Place {
 public:
  explicit Place(std::atomic<int>& taken) : taken_(&taken) { ++*taken_; }
  Place(Place&& other) noexcept : taken_(std::exchange(other.taken_, nullptr)) {}
  Place& operator=(Place&&) = delete;
  ~Place() {
    if (taken_ != nullptr) --*taken_;
  }

 private:
  std::atomic<int>* taken_;
};

void start_client(ReservationBroker& broker, UniqueFd connection) {
  static std::atomic<int> taken = 0;
  if (taken >= kMaxClients) {
    refuse(connection.get(), fmt::format("{} clients are served already", kMaxClients));
    return;
  }
  try {
    std::thread([&broker, connection = std::move(connection), place = Place(taken)] {
      serve_client(broker, connection);
    }).detach();
  } catch (const std::system_error& error) {
    log::warning("a client is turned away: {}", error.what());
  }
}

[[noreturn]] void accept_clients(ReservationBroker& broker, int listener) {
  while (true) {
    pollfd waiting{.fd = listener, .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, -1);
    UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (connection) {
      start_client(broker, std::move(connection));
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      // The connection stays in the backlog until there is room for it.
      ::poll(nullptr, 0, kNoDescriptorsPauseMs);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      // At once: the clients' threads still use the broker.
      log::error("no connection can be accepted: {}", std::system_category().message(errno));
      std::_Exit(kExitFailed);
    }
  }
}

// Returns only when it cannot start.
Result<> run(const Options& options) {
  Result<UniqueFd> listener = options.socket.empty() ? systemd_socket() : own_socket(options);
  if (!listener) return std::move(listener).error();
  TRY(give_up_broker_privileges());
  TRY(restrict_broker_system_calls());
  LinuxReservationKernel kernel;
  ReservationBroker broker(LunResolver(), kernel);
  log::info("serves {}", options.socket.empty() ? "the socket of systemd" : options.socket);
  accept_clients(broker, listener->get());
}

int broker_main(int argc, char** argv) {
  Result<Options> options = parse_options(argc, argv);
  if (options && options->help) {
    fmt::print("{}", kUsage);
    return kExitOk;
  }
  log::configure("plumb-pr-broker", log::Level::kInfo);
  Result<> done = options ? run(options.value()) : Result<>(options.error());
  fmt::print(stderr, "plumb-pr-broker: {}\n", done.error().message);
  return exit_code_of(done.error().kind);
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  try {
    return plumb::broker_main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb-pr-broker: an error nobody expected: {}\n", error.what());
    return plumb::kExitFailed;
  }
}
