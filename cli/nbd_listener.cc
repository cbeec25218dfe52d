#include "cli/nbd_listener.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/tcp_socket.h"
#include "base/text.h"
#include "base/unix_socket.h"

namespace plumb {
namespace {

constexpr int kBacklog = 16;
constexpr int kAskMs = 1000;

// Who connects and goes again does a server no harm.
Result<> check_free(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return os_error(errno, "socket {} cannot be looked at", path);
  }
  if (!S_ISSOCK(status.st_mode)) {
    return failed("{} is there, and is no socket; give another --socket", path);
  }
  Result<UniqueFd> other = connect_unix(path, SOCK_STREAM, kAskMs);
  // EAGAIN: its queue is full.
  if (other || other.error().os_errno == EAGAIN) {
    return make_error(ErrorKind::kLocked,
                      "somebody serves at socket {} already; end that, or give another --socket",
                      path);
  }
  const int error = other.error().os_errno;
  if (error == ECONNREFUSED || error == ENOENT) return {};
  return std::move(other).error();
}

}  // namespace

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
  struct stat status {};
  if (path_.empty() || ::lstat(path_.c_str(), &status) != 0) return;
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : path_(std::exchange(other.path_, "")), device_(other.device_), inode_(other.inode_) {}

SocketFile::~SocketFile() {
  struct stat status {};
  if (path_.empty() || ::lstat(path_.c_str(), &status) != 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

Result<NbdListener> listen_at_socket(const std::string& path) {
  const std::string absolute = std::filesystem::absolute(path).string();
  TRY(check_free(absolute));
  UniqueFd fd = TRY(listen_unix(absolute, kBacklog));
  return NbdListener{std::move(fd), SocketFile(absolute), ""};
}

Result<NbdListener> listen_at_address(const std::string& address, bool guarded) {
  const bool port_only = address.find(':') == std::string::npos;
  const TcpAddress parsed = TRY(parse_tcp_address(port_only ? "127.0.0.1:" + address : address));
  if (!guarded && !parsed.is_loopback()) {
    return usage_error(
        "at {} everybody in the network could read the disks; give a key with --tls-psk, or say "
        "--insecure",
        parsed.text());
  }
  UniqueFd fd = TRY(listen_tcp(parsed, kBacklog));
  std::string text = TRY(address_of_listener(fd.get())).text();
  return NbdListener{std::move(fd), SocketFile(""), std::move(text)};
}

std::string nbd_uri(const NbdListener& listener, const std::string& name, bool tls) {
  const char* scheme = tls ? "nbds" : "nbd";
  if (!listener.address.empty()) return fmt::format("{}://{}/{}", scheme, listener.address, name);
  return fmt::format("{}+unix:///{}?socket={}", scheme, name, printable(listener.file.path()));
}

}  // namespace plumb
