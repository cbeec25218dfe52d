#include "vmm/boot/cpu_tables.h"

#include <array>

#include "base/check.h"
#include "base/endian.h"

namespace plumb {

// Intel SDM volume 3, section 3.4.5.
void write_gdt(const GuestMemory& memory, GuestAddress at, bool long_mode) {
  constexpr uint64_t kCode64 = 0x00af9b000000ffff;
  constexpr uint64_t kCode32 = 0x00cf9b000000ffff;
  constexpr uint64_t kData = 0x00cf93000000ffff;
  const std::array<uint64_t, 4> gdt{0, 0, long_mode ? kCode64 : kCode32, kData};
  static_assert(sizeof(gdt) == kGdtSize);
  ENSURE(memory.write(at, gdt));
}

// Intel SDM volume 3, section 4.5.
void write_identity_page_tables(const GuestMemory& memory, GuestAddress at) {
  constexpr uint64_t kPage = 4096;
  constexpr uint64_t kPresentWritable = 3;
  constexpr uint64_t kLargePage = 1U << 7U;
  constexpr uint64_t kGigabytes = 4;
  std::byte* tables = memory.at(at, (2 + kGigabytes) * kPage);
  ENSURE(tables != nullptr);
  store_le<uint64_t>(tables, (at + kPage) | kPresentWritable);
  for (uint64_t i = 0; i < kGigabytes; ++i) {
    store_le<uint64_t>(tables + kPage + 8 * i, (at + (2 + i) * kPage) | kPresentWritable);
  }
  std::byte* entry = tables + 2 * kPage;
  for (uint64_t i = 0; i < kGigabytes * 512; ++i, entry += 8) {
    store_le<uint64_t>(entry, (i << 21U) | kLargePage | kPresentWritable);
  }
}

}  // namespace plumb
