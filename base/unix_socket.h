// Unix stream sockets: private listeners and plain connections.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// A non-blocking listener at `path`, mode 0600; a socket file left there is replaced.
Result<UniqueFd> listen_unix(const std::string& path, int backlog);

// A blocking connection. The error's os_errno is ENOENT or ECONNREFUSED when nobody listens.
Result<UniqueFd> connect_unix(const std::string& path);

}  // namespace plumb
