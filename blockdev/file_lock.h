// Advisory locks that keep two VMs off one image: open file description locks, which end with
// the descriptor, however its process ends.
#pragma once

#include <string>

#include "base/result.h"

namespace plumb {

// Locks the whole file behind `fd`: exclusively (the descriptor must be writable) or shared.
// Error kLocked, with the holder named, when another open of the file holds a lock against it.
// `what` is for the message: "image root.img".
Result<> lock_file(int fd, const std::string& what, bool exclusive);

// Error kLocked, as above, when another open of the file holds any lock on it. Leaves no lock, so
// that a descriptor for reading will do.
Result<> check_unlocked(int fd, const std::string& what);

}  // namespace plumb
