// Source: Linux Documentation/arch/x86/boot.rst.
#include <asm/bootparam.h>

#include <algorithm>
#include <cstring>

#include "vmm/boot/kernel_image.h"
#include "vmm/layout.h"

namespace plumb {
namespace {

constexpr size_t kSetupHeader = 0x1f1;
constexpr size_t kSetupHeaderEnd = 0x290;  // of the room for it in the zero page
constexpr size_t kMagic = 0x202;
constexpr size_t kJumpOffset = 0x201;  // its value + 0x202 is where the header ends
constexpr uint32_t kHdrS = 0x53726448;
constexpr uint16_t kOldestVersion = 0x020c;  // 2.12 brought xloadflags
constexpr uint64_t kSector = 512;
constexpr uint64_t kEntry64 = 0x200;

uint32_t word_at(std::span<const std::byte> file, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, &file[offset], sizeof(value));
  return value;
}

Result<> check_header(const setup_header& header) {
  if (header.version < kOldestVersion) {
    return failed("has boot protocol {}.{:02}, and plumb needs 2.12 or newer (Linux 3.8)",
                  header.version >> 8U, header.version & 0xffU);
  }
  if ((header.xloadflags & XLF_KERNEL_64) == 0) {
    return failed("is a 32-bit kernel, and plumb boots 64-bit kernels");
  }
  if ((header.loadflags & LOADED_HIGH) == 0) {
    return failed("is a zImage, and plumb boots bzImages");
  }
  if (header.pref_address < layout::kHighRamStart || header.init_size == 0 ||
      header.pref_address > GuestMemory::kHoleStart) {
    return failed("is damaged: its header asks for {} bytes of memory at {:#x}",
                  uint32_t{header.init_size}, uint64_t{header.pref_address});
  }
  return {};
}

}  // namespace

bool is_bzimage(std::span<const std::byte> file) {
  return file.size() >= kMagic + 4 && word_at(file, kMagic) == kHdrS;
}

Result<KernelImage> parse_bzimage(std::span<const std::byte> file) {
  if (!is_bzimage(file)) return failed("is not a bzImage");
  if (file.size() < kSetupHeaderEnd) {
    return failed("is truncated: it ends within its header, after {} bytes", file.size());
  }
  setup_header header{};
  std::memcpy(&header, &file[kSetupHeader], sizeof(header));
  TRY(check_header(header));

  const uint64_t sectors = header.setup_sects == 0 ? 4 : header.setup_sects;
  const uint64_t start = (sectors + 1) * kSector;
  const uint64_t length = uint64_t{header.syssize} * 16;
  // The last paragraph of the length need not be whole.
  if (start >= file.size() || length > file.size() - start + 15 || length <= kEntry64) {
    return failed("is truncated: it has {} bytes, and its header says {}", file.size(),
                  start + length);
  }
  const size_t header_end =
      std::min(kSetupHeaderEnd, kMagic + static_cast<size_t>(file[kJumpOffset]));
  KernelImage image;
  image.kind = KernelImage::Kind::kBzImage;
  image.entry = header.pref_address + kEntry64;
  const uint64_t bytes = std::min(length, file.size() - start);
  image.segments.push_back({.file_offset = start,
                            .file_bytes = bytes,
                            .address = header.pref_address,
                            .memory_bytes = std::max<uint64_t>(header.init_size, bytes)});
  image.memory_end = header.pref_address + image.segments[0].memory_bytes;
  image.initrd_max = header.initrd_addr_max;
  image.command_line_max = header.cmdline_size;
  const auto bytes_of_header = file.subspan(kSetupHeader, header_end - kSetupHeader);
  image.setup_header.assign(bytes_of_header.begin(), bytes_of_header.end());
  return image;
}

Result<KernelImage> parse_kernel(std::span<const std::byte> file) {
  if (is_bzimage(file)) return parse_bzimage(file);
  if (is_elf(file)) return parse_pvh_elf(file);
  return failed("is not a kernel that plumb can boot: neither a bzImage nor an ELF file");
}

}  // namespace plumb
