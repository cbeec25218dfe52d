// Memory that direct I/O takes: aligned to a page, which every device and file system accepts.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace plumb {

inline constexpr size_t kPageBytes = 4096;

struct FreeAligned {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<std::byte, FreeAligned>;

// nullptr without memory.
inline AlignedMemory aligned_memory(size_t bytes) {
  const size_t rounded = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  return AlignedMemory(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, rounded)));
}

}  // namespace plumb
