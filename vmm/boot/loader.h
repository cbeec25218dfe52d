// Loads a kernel into guest memory, with all it needs to start: command line, initrd, memory map,
// boot parameters, descriptor and page tables.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/guest_memory.h"
#include "vmm/vcpu.h"

namespace plumb {

// The files a guest boots from, open for as long as it may reboot: what happens to their paths
// meanwhile, and who may open them, does not matter then.
struct BootFiles {
  std::string kernel_path;
  UniqueFd kernel;
  std::string initrd_path;  // "" for none
  UniqueFd initrd;
};

// Errors: a file is not there, not ours to read, empty, or no regular file.
Result<BootFiles> open_boot_files(const std::string& kernel_path, const std::string& initrd_path);

struct BootConfig {
  std::string command_line;
  GuestAddress rsdp = 0;  // where the ACPI tables are
};

// Guest memory must still be all zeroes where nothing was written. Errors name the file.
Result<CpuStart> load_guest(const GuestMemory& memory, const BootFiles& files,
                            const BootConfig& config);

}  // namespace plumb
