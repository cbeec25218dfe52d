// Passwords, read from files that nobody else can read: never from a configuration file, an
// argument or the environment.
#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"

namespace plumb {

// The one line of a file without its end. Errors, which never show what is in it: it cannot be
// read, belongs to another user, lets others in (its mode must be 0600 or 0400), is no regular
// file, is empty, or has more than a line.
Result<std::string> read_secret(const std::string& path);

// All of such a file, with as many lines as it has. Errors: as above, and longer than
// `limit_bytes`.
Result<std::string> read_private_file(const std::string& path, size_t limit_bytes);

}  // namespace plumb
