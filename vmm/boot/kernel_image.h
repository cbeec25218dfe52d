// Kernel files: what to copy where, and how to enter. Pure functions over the bytes of a file,
// which may be anything at all.
//
// Errors are the rest of a sentence that starts with the file's name: "is truncated: …".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "vmm/guest_memory.h"

namespace plumb {

struct KernelImage {
  enum class Kind : uint8_t { kBzImage, kPvh };
  // file_bytes (at most memory_bytes) from the file, then zeroes, or room to unpack: guest RAM is
  // zero at the start.
  struct Segment {
    uint64_t file_offset = 0;
    uint64_t file_bytes = 0;
    GuestAddress address = 0;  // 1 MiB or above
    uint64_t memory_bytes = 0;
  };

  Kind kind = Kind::kBzImage;
  GuestAddress entry = 0;
  std::vector<Segment> segments;
  // The kernel uses [its first segment, memory_end) before it knows where its initrd is.
  GuestAddress memory_end = 0;
  GuestAddress initrd_max = 0;    // the highest address that the initrd may have
  uint32_t command_line_max = 0;  // characters, without the final zero
  // kBzImage: the setup header, as it stands at offset 0x1f1 of the file and of the zero page.
  std::vector<std::byte> setup_header;
};

// Either of the two below, whichever the file is. Errors: it is neither; and theirs.
Result<KernelImage> parse_kernel(std::span<const std::byte> file);

bool is_bzimage(std::span<const std::byte> file);
// Linux x86 boot protocol, from 2.12, by its 64-bit entry. Errors: older, 32-bit only, truncated,
// impossible sizes.
Result<KernelImage> parse_bzimage(std::span<const std::byte> file);

bool is_elf(std::span<const std::byte> file);
// An ELF executable with the note XEN_ELFNOTE_PHYS32_ENTRY, 32 or 64 bit. Errors: no such note,
// truncated, tables or segments outside the file, below 1 MiB or overflowing.
Result<KernelImage> parse_pvh_elf(std::span<const std::byte> file);

}  // namespace plumb
