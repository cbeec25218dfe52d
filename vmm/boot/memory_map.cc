#include "vmm/boot/memory_map.h"

#include <algorithm>

#include "vmm/guest_memory.h"
#include "vmm/layout.h"

namespace plumb {

std::vector<MemoryMapEntry> build_memory_map(uint64_t memory_bytes) {
  const uint64_t low_end = std::min(memory_bytes, GuestMemory::kHoleStart);
  std::vector<MemoryMapEntry> map = {
      {0, layout::kLowRamEnd, MemoryMapEntry::kRam},
      {layout::kLowRamEnd, layout::kHighRamStart - layout::kLowRamEnd, MemoryMapEntry::kReserved},
      {layout::kHighRamStart, low_end - layout::kHighRamStart, MemoryMapEntry::kRam},
      {layout::kEcam, layout::kEcamSize, MemoryMapEntry::kReserved},
  };
  if (memory_bytes > low_end) {
    map.push_back({GuestMemory::kHoleEnd, memory_bytes - low_end, MemoryMapEntry::kRam});
  }
  return map;
}

}  // namespace plumb
