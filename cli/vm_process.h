// The process of a running VM, built bottom-up in reading order: runtime folder, disks, consoles,
// control API, and over these the Vm, once per boot of the guest.
#pragma once

#include <functional>

#include "base/result.h"
#include "cli/definition.h"
#include "cli/exit_code.h"
#include "cli/vm_disks.h"

namespace plumb {

// Claims everything the VM needs, starts the guest, calls `started`, and serves the VM until it
// ends. With `foreground` the console is on standard input and output. Once per process.
// `decorate` is for tests.
Result<ExitCode> serve_vm(const VmDefinition& definition, bool foreground,
                          const std::function<void()>& started, EngineDecorator decorate = {});

}  // namespace plumb
