// Advisory locks that keep two VMs off one image: open file description locks, which end with
// the descriptor, however its process ends.
#pragma once

#include <string>

#include "base/result.h"

namespace plumb {

// Locks the whole file behind `fd`: exclusively (the descriptor must be writable) or shared.
// Error kLocked, with the holder named, when another open of the file holds a lock against it.
// `path` is for the message.
Result<> lock_file(int fd, const std::string& path, bool exclusive);

}  // namespace plumb
