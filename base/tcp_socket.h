// TCP listeners, at addresses given as numbers: nothing is looked up.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

struct TcpAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  // Only this host reaches it: 127.0.0.0/8 or ::1.
  bool is_loopback() const;
  // "127.0.0.1:10809", "[::1]:10809"
  std::string text() const;
};

// "127.0.0.1:10809", "[::1]:10809"; port 0 leaves the choice to the kernel. A usage error for
// anything else, names too. Pure.
Result<TcpAddress> parse_tcp_address(std::string_view text);

// A non-blocking listener. What it accepts has TCP_NODELAY, and notices a peer that has vanished
// (SO_KEEPALIVE). Errors: somebody listens there, or the address is not this host's.
Result<UniqueFd> listen_tcp(const TcpAddress& address, int backlog);

// Where a listener listens: with the port that the kernel chose.
Result<TcpAddress> address_of_listener(int fd);

}  // namespace plumb
