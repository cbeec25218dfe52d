// One message of the reservation protocol over a SOCK_SEQPACKET socket, with a descriptor beside
// it.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

struct ReceivedMessage {
  std::vector<std::byte> bytes;  // empty: the peer has closed the connection
  UniqueFd fd;                   // the descriptor that came along, if one did
};

// Sends `message`, which is not empty, and `fd` with it unless that is -1. Never raises SIGPIPE.
// The error's os_errno is EPIPE or ECONNRESET when the peer is gone: it has then not seen the
// message.
Result<> send_message(int socket, std::span<const std::byte> message, int fd = -1);

// Blocks for one message of at most `limit_bytes`. An error when it is longer, or comes with more
// than one descriptor; those are closed.
Result<ReceivedMessage> receive_message(int socket, size_t limit_bytes);

}  // namespace plumb
