// Looking at other processes on this host, to name who holds something.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

namespace plumb {

// "VM db1 (pid 4711)" for a plumb VM, else "mkfs.ext4 (pid 4711)".
std::string describe_process(pid_t pid, const std::string& proc_root = "/proc");

// Whether the process has ended, within the time. Blocks.
bool wait_for_end(pid_t pid, int timeout_ms);

// An open descriptor of some process.
struct ProcessFd {
  pid_t pid = 0;
  int fd = -1;
  std::string path;  // "/proc/PID/fd/FD": stat(2) on it is fstat(2) on the descriptor
  std::string info;  // "/proc/PID/fdinfo/FD"
};

// The first process, our own included, with a descriptor that is `wanted`; of those that we may
// look into.
std::optional<pid_t> find_process(const std::function<bool(const ProcessFd&)>& wanted,
                                  const std::string& proc_root = "/proc");

// describe_process() of a process other than ours that has the block device open.
std::optional<std::string> process_with_device_open(dev_t device,
                                                    const std::string& proc_root = "/proc");

}  // namespace plumb
