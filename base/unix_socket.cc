#include "base/unix_socket.h"

#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace plumb {
namespace {

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return failed("socket path {} is longer than the {} bytes that Unix sockets allow", path,
                  sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

Result<UniqueFd> listen_unix(const std::string& path, int backlog, int type) {
  const sockaddr_un address = TRY(address_of(path));
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return os_error(errno, "a socket cannot be made");
  ::unlink(path.c_str());
  // The mode is set on the descriptor before bind, so the file never has another.
  if (::fchmod(fd.get(), 0600) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(fd.get(), backlog) != 0) {
    return os_error(errno, "socket {} cannot be made", path);
  }
  return fd;
}

Result<UniqueFd> connect_unix(const std::string& path, int type, int timeout_ms) {
  const sockaddr_un address = TRY(address_of(path));
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd) return os_error(errno, "a socket cannot be made");
  // 0 is no timeout, here as there.
  const timeval timeout{.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000L};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) != 0) {
    return os_error(errno, "a socket takes no timeout");
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return os_error(errno, "socket {} cannot be connected", path);
  }
  return fd;
}

}  // namespace plumb
