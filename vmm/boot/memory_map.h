// The memory map that a kernel is given at boot (e820 types; ACPI 6.5, section 15.4).
#pragma once

#include <cstdint>
#include <vector>

namespace plumb {

struct MemoryMapEntry {
  static constexpr uint32_t kRam = 1;
  static constexpr uint32_t kReserved = 2;

  uint64_t start = 0;
  uint64_t size = 0;
  uint32_t type = kRam;
};

// Of a guest with that much RAM. The ACPI tables are in the reserved part below 1 MiB; ECAM is
// reserved because Linux uses it only when the map says so.
std::vector<MemoryMapEntry> build_memory_map(uint64_t memory_bytes);

}  // namespace plumb
