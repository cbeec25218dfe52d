// How a detached process of a VM tells who started it that it runs, or why it does not: one line of
// JSON over a pipe.
#pragma once

#include <string>

#include "base/result.h"

namespace plumb {

// From the VM's process; `error` without a message means that the VM runs. No-op for fd -1.
void report_start(int fd, const Error& error);

// In a child that is about to become a program of ours: a session of its own, no terminal, its log
// in the runtime folder of `vm_name`.
Result<> leave_terminal(const std::string& vm_name);

// Waits for the report; an error when the VM did not start, or ended without a word.
Result<> await_start(int fd, const std::string& vm_name);

}  // namespace plumb
