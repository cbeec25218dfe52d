#include "base/tcp_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

namespace plumb {
namespace {

std::optional<uint16_t> parse_port(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return port;
}

template <typename Address>
TcpAddress stored(const Address& address) {
  TcpAddress stored;
  std::memcpy(&stored.storage, &address, sizeof(address));
  stored.length = sizeof(address);
  return stored;
}

sockaddr_in v4(const TcpAddress& address) {
  sockaddr_in in{};
  std::memcpy(&in, &address.storage, sizeof(in));
  return in;
}

sockaddr_in6 v6(const TcpAddress& address) {
  sockaddr_in6 in{};
  std::memcpy(&in, &address.storage, sizeof(in));
  return in;
}

}  // namespace

bool TcpAddress::is_loopback() const {
  if (storage.ss_family == AF_INET) return ntohl(v4(*this).sin_addr.s_addr) >> 24U == 127;
  const in6_addr address = v6(*this).sin6_addr;
  return std::memcmp(&address, &in6addr_loopback, sizeof(address)) == 0;
}

std::string TcpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (storage.ss_family == AF_INET) {
    const sockaddr_in in = v4(*this);
    ::inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
    return fmt::format("{}:{}", text.data(), ntohs(in.sin_port));
  }
  const sockaddr_in6 in = v6(*this);
  ::inet_ntop(AF_INET6, &in.sin6_addr, text.data(), text.size());
  return fmt::format("[{}]:{}", text.data(), ntohs(in.sin6_port));
}

Result<TcpAddress> parse_tcp_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  const Error wrong =
      usage_error("'{}' is no address to listen at; write 127.0.0.1:10809 or [::1]:10809", text);
  if (colon == std::string_view::npos) return wrong;
  const std::optional<uint16_t> port = parse_port(text.substr(colon + 1));
  std::string host(text.substr(0, colon));
  if (!port || host.find('\0') != std::string::npos) return wrong;
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(*port);
  if (::inet_pton(AF_INET, host.c_str(), &in.sin_addr) == 1) return stored(in);
  if (!host.starts_with('[') || !host.ends_with(']')) return wrong;
  host = host.substr(1, host.size() - 2);
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(*port);
  if (::inet_pton(AF_INET6, host.c_str(), &in6.sin6_addr) == 1) return stored(in6);
  return wrong;
}

Result<UniqueFd> listen_tcp(const TcpAddress& address, int backlog) {
  UniqueFd fd(
      ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!fd) return os_error(errno, "a socket cannot be made");
  const int on = 1;
  // Where a server has just ended, another may listen at once; the rest is for what is accepted.
  const bool set = ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
                   ::setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) == 0 &&
                   ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0;
  const auto* name = reinterpret_cast<const sockaddr*>(&address.storage);
  if (!set || ::bind(fd.get(), name, address.length) != 0 || ::listen(fd.get(), backlog) != 0) {
    return os_error(errno, "nobody can listen at {}", address.text());
  }
  return fd;
}

Result<TcpAddress> address_of_listener(int fd) {
  TcpAddress address;
  address.length = sizeof(address.storage);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) == 0) {
    return address;
  }
  return os_error(errno, "a listener does not tell where it listens");
}

}  // namespace plumb
