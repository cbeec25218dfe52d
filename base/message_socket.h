// Messages over a SOCK_SEQPACKET Unix socket, with descriptors beside them (unix(7), SCM_RIGHTS).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

inline constexpr size_t kMaxMessageFds = 4;

struct ReceivedMessage {
  std::vector<std::byte> bytes;  // empty: the peer has closed the connection
  std::vector<UniqueFd> fds;     // the descriptors that came along
};

// Sends `message`, which is not empty, and `fds` with it, at most kMaxMessageFds, which stay the
// caller's. Never raises SIGPIPE. The error's os_errno is EPIPE or ECONNRESET when the peer is
// gone: it has then not seen the message.
Result<> send_message(int socket, std::span<const std::byte> message,
                      std::span<const int> fds = {});

// Blocks for one message of at most `limit_bytes`. An error when it is longer, or comes with more
// than `max_fds` descriptors; those are closed.
Result<ReceivedMessage> receive_message(int socket, size_t limit_bytes, size_t max_fds = 1);

}  // namespace plumb
