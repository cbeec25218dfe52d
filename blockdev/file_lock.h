// Advisory locks that keep two VMs off one image: open file description locks, which end with
// the descriptor, however its process ends.
#pragma once

#include <string>

#include "base/result.h"

namespace plumb {

struct LockHolder {
  int pid = 0;             // 0: not found (another host, or a process we may not look into)
  std::string vm;          // of a plumb-vm process, its VM's name
  std::string executable;  // the holder's name otherwise
};

// Locks the whole file behind `fd`: exclusively (the descriptor must be writable) or shared.
// Error kLocked, with the holder named, when another open of the file holds a lock against it.
// `path` is for the message.
Result<> lock_file(int fd, const std::string& path, bool exclusive);

// Who holds such a lock on the file behind `fd`; looks into /proc. An open of our own process is
// found too, but not `fd` itself.
LockHolder find_lock_holder(int fd);

}  // namespace plumb
