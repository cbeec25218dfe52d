// Loads a kernel into guest memory, with all it needs to start: command line, initrd, memory map,
// boot parameters, descriptor and page tables.
#pragma once

#include <string>

#include "base/result.h"
#include "vmm/guest_memory.h"
#include "vmm/vcpu.h"

namespace plumb {

struct BootConfig {
  std::string kernel_path;
  std::string initrd_path;  // "" for none
  std::string command_line;
  GuestAddress rsdp = 0;  // where the ACPI tables are
};

// Guest memory must still be all zeroes where nothing was written. Errors name the file.
Result<CpuStart> load_guest(const GuestMemory& memory, const BootConfig& config);

}  // namespace plumb
