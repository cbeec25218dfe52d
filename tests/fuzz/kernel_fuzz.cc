// Any bytes at all as a kernel file: refused, or what the loader may rely on holds.
#include <cstdlib>

#include "base/check.h"
#include "vmm/boot/kernel_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  plumb::Result<plumb::KernelImage> image = plumb::parse_kernel(file);
  if (!image) {
    ENSURE(!image.error().message.empty());
    return 0;
  }
  ENSURE(!image->segments.empty());
  for (const plumb::KernelImage::Segment& segment : image->segments) {
    ENSURE(segment.file_bytes <= segment.memory_bytes);
    ENSURE(segment.file_offset <= size && segment.file_bytes <= size - segment.file_offset);
    ENSURE(segment.address >= 0x100000);
    ENSURE(segment.memory_bytes <= ~0ULL - segment.address);
    ENSURE(segment.address + segment.memory_bytes <= image->memory_end);
  }
  ENSURE(image->setup_header.size() <= 0x290 - 0x1f1);
  return 0;
}
