// Looking at other processes on this host, to name who holds something.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace plumb {

// "VM db1 (pid 4711)" for a plumb VM, else "mkfs.ext4 (pid 4711)".
std::string describe_process(const std::string& pid, const std::string& proc_root = "/proc");

// describe_process() of a process that has the block device open, if any can be seen; our own
// process is passed over.
std::optional<std::string> process_with_device_open(dev_t device,
                                                    const std::string& proc_root = "/proc");

}  // namespace plumb
