// SMBIOS: what a guest is told of the machine that it runs on; Linux shows it below
// /sys/class/dmi/id. Source: SMBIOS (DMTF DSP0134) 3.0, chapters 5 to 7. Pure: bytes in, bytes out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/uuid.h"

namespace plumb {

struct SmbiosConfig {
  Uuid uuid;  // the machine's
  // Where the bytes will be in the guest: 0xf0000-0xfffff, on a 16-byte boundary.
  uint32_t address = 0;
};

// The 64-bit entry point (first) and the structures of types 0 (BIOS), 1 (system), 3 (chassis) and
// 127 (end of table).
std::vector<std::byte> build_smbios(const SmbiosConfig& config);

}  // namespace plumb
