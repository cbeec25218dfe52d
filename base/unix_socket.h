// Unix sockets: private listeners and plain connections. `type` is SOCK_STREAM or SOCK_SEQPACKET.
#pragma once

#include <sys/socket.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// A non-blocking listener at `path`, mode 0600; a socket file left there is replaced.
Result<UniqueFd> listen_unix(const std::string& path, int backlog, int type = SOCK_STREAM);

// A blocking connection. The error's os_errno is ENOENT or ECONNREFUSED when nobody listens. With a
// timeout, EAGAIN when the listener has not accepted by then; sends on the connection have it too.
Result<UniqueFd> connect_unix(const std::string& path, int type = SOCK_STREAM, int timeout_ms = 0);

}  // namespace plumb
