#include "cli/keeper_process.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "cli/keeper_protocol.h"
#include "cli/sandbox.h"
#include "cli/source_message.h"
#include "rdm/reservation_client.h"

namespace plumb {
namespace {

constexpr int kConnectTimeoutMs = 5000;
constexpr size_t kUeventBytes = 8192;  // the kernel's are shorter
constexpr unsigned kKernelEvents = 1;  // the multicast group
constexpr size_t kSentenceLimit = 1024;

Result<UniqueFd> open_uevents() {
  UniqueFd fd(
      ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = kKernelEvents;
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return os_error(errno, "the kernel's device events cannot be listened to");
  }
  return fd;
}

// Takes all that is there; whether any is about a disk. After an overflow one may have been.
bool take_uevents(int fd) {
  std::array<std::byte, kUeventBytes> buffer;
  bool any = false;
  for (;;) {
    sockaddr_nl sender{};
    socklen_t size = sizeof(sender);
    const ssize_t bytes = ::recvfrom(fd, buffer.data(), buffer.size(), 0,
                                     reinterpret_cast<sockaddr*>(&sender), &size);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno == ENOBUFS) {
      any = true;
      continue;
    }
    if (bytes < 0) return any;
    const bool from_kernel = sender.nl_pid == 0;
    if (from_kernel) any |= is_disk_event(std::span(buffer).first(static_cast<size_t>(bytes)));
  }
}

class KeeperProcess {
 public:
  explicit KeeperProcess(KeeperSockets sockets) : sockets_(std::move(sockets)) {}

  Result<> run();

 private:
  Result<bool> serve_luns();
  Result<bool> serve_connections();
  Result<> watch(const KeeperRequest& request, const std::vector<UniqueFd>& fds);
  Result<> report(KeeperReport report);
  Result<> tell_news();

  KeeperSockets sockets_;
  LunKeeper keeper_{LunResolver()};
};

Result<> KeeperProcess::run() {
  const UniqueFd uevents = TRY(open_uevents());
  TRY(give_up_keeper_privileges());
  TRY(restrict_keeper_system_calls());
  std::array<pollfd, 3> fds{{{.fd = sockets_.luns.get(), .events = POLLIN, .revents = 0},
                             {.fd = sockets_.connections.get(), .events = POLLIN, .revents = 0},
                             {.fd = uevents.get(), .events = POLLIN, .revents = 0}}};
  for (;;) {
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) {
      return os_error(errno, "the keeper of LUNs cannot wait");
    }
    if (fds[0].revents != 0 && !TRY(serve_luns())) return {};
    if (fds[1].revents != 0 && !TRY(serve_connections())) return {};
    if (fds[2].revents != 0 && take_uevents(uevents.get())) TRY(tell_news());
  }
}

Result<> KeeperProcess::report(KeeperReport report) {
  std::vector<int> fds;
  if (report.finding.source) fds = source_fds(*report.finding.source);
  return send_message(sockets_.luns.get(), encode_keeper_report(report), fds);
}

// False when the VM is gone.
Result<bool> KeeperProcess::serve_luns() {
  const ReceivedMessage message = TRY(receive_message(sockets_.luns.get(), kKeeperMessageLimit));
  if (message.bytes.empty()) return false;
  const KeeperRequest request = TRY(decode_keeper_request(message.bytes));
  switch (request.action) {
    case KeeperRequest::Action::kWatch:
      if (Result<> watched = watch(request, message.fds); !watched) {
        LunFinding refusal{
            .state = LunFinding::State::kLost, .reason = watched.error().message, .source = {}};
        TRY(report({KeeperReport::About::kRefusal, request.disk, std::move(refusal)}));
      }
      break;
    case KeeperRequest::Action::kUnwatch:
      keeper_.unwatch(request.disk);
      break;
    case KeeperRequest::Action::kLook:
      TRY(report({KeeperReport::About::kLook, request.disk, keeper_.look(request.disk, true)}));
      break;
  }
  return true;
}

Result<> KeeperProcess::watch(const KeeperRequest& request, const std::vector<UniqueFd>& fds) {
  struct stat status {};
  if (fds.empty() || ::fstat(fds.front().get(), &status) != 0 || !S_ISBLK(status.st_mode)) {
    return failed("disk {} comes without the descriptor of a LUN", request.disk);
  }
  KeptLun lun{.disk = request.disk,
              .wwn = TRY(LunId::parse(request.wwn)),
              .options = {.read_only = request.read_only,
                          .allow_weak_identity = request.allow_weak_identity,
                          .shared = request.shared},
              .discard = request.discard};
  return keeper_.watch(std::move(lun), status.st_rdev);
}

Result<bool> KeeperProcess::serve_connections() {
  const ReceivedMessage asked = TRY(receive_message(sockets_.connections.get(), kSentenceLimit));
  if (asked.bytes.empty()) return false;
  Result<UniqueFd> connection = connect_to_broker(kReservationSocket, kConnectTimeoutMs);
  std::string sentence;
  std::vector<int> fds;
  if (connection) {
    fds.push_back(connection->get());
  } else {
    sentence = connection.error().message;
  }
  sentence.push_back('\0');  // an empty message would be the end
  TRY(send_message(sockets_.connections.get(), std::as_bytes(std::span(sentence)), fds));
  return true;
}

Result<> KeeperProcess::tell_news() {
  for (LunKeeper::News& one : keeper_.news()) {
    TRY(report({KeeperReport::About::kNews, one.disk, std::move(one.finding)}));
  }
  return {};
}

// In the child.
[[noreturn]] void become_keeper(KeeperSockets sockets) {
  ::prctl(PR_SET_NAME, "plumb-keeper");
  // A terminal's signals are for the VM, whose end is ours.
  for (const int number : {SIGINT, SIGQUIT, SIGTERM, SIGHUP}) ::signal(number, SIG_IGN);
  KeeperProcess keeper(std::move(sockets));
  const Result<> ended = keeper.run();
  if (!ended.ok()) log::error("the keeper of LUNs ends: {}", Result<>(ended).error().message);
  ::_exit(ended.ok() ? 0 : 1);
}

struct SocketPair {
  UniqueFd ours;
  UniqueFd theirs;
};

Result<SocketPair> make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return os_error(errno, "a pair of sockets cannot be made");
  }
  return SocketPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// So that neither a claim nor a lock of the parent lives on here.
void close_others(const KeeperSockets& keep) {
  const int low = std::min(keep.luns.get(), keep.connections.get());
  const int high = std::max(keep.luns.get(), keep.connections.get());
  const auto close_from = [](int first, int last) {
    if (first <= last) ::close_range(static_cast<unsigned>(first), static_cast<unsigned>(last), 0);
  };
  close_from(STDERR_FILENO + 1, low - 1);
  close_from(low + 1, high - 1);
  ::close_range(static_cast<unsigned>(high) + 1, ~0U, 0);
}

}  // namespace

bool is_disk_event(std::span<const std::byte> message) {
  // "ACTION@PATH", then KEY=VALUE, each ended by a zero byte.
  std::string_view rest(reinterpret_cast<const char*>(message.data()), message.size());
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\0'));
    if (line == "SUBSYSTEM=block" || line == "SUBSYSTEM=scsi" || line == "SUBSYSTEM=nvme") {
      return true;
    }
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
  }
  return false;
}

Result<KeeperSockets> start_keeper() {
  SocketPair luns = TRY(make_pair());
  SocketPair connections = TRY(make_pair());
  const pid_t child = ::fork();
  if (child < 0) return os_error(errno, "a process that keeps the LUNs cannot be made");
  if (child == 0) {
    KeeperSockets sockets{std::move(luns.theirs), std::move(connections.theirs)};
    close_others(sockets);
    // The descriptors are closed: what the parent's objects still name is not theirs any more.
    static_cast<void>(luns.ours.release());
    static_cast<void>(connections.ours.release());
    become_keeper(std::move(sockets));
  }
  return KeeperSockets{std::move(luns.ours), std::move(connections.ours)};
}

Result<UniqueFd> connect_through_keeper(int connections) {
  constexpr std::byte kAsk{'?'};
  TRY(send_message(connections, {&kAsk, 1}));
  ReceivedMessage answer = TRY(receive_message(connections, kSentenceLimit));
  if (!answer.fds.empty()) return std::move(answer.fds.front());
  if (answer.bytes.empty())
    return failed("the keeper of LUNs has ended; its VM can reserve LUNs once it is started again");
  return make_error(ErrorKind::kNotFound, "{}", reinterpret_cast<const char*>(answer.bytes.data()));
}

}  // namespace plumb
