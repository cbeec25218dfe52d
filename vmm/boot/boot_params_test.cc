#include "vmm/boot/boot_params.h"

#include <catch2/catch.hpp>

#include "base/size.h"
#include "vmm/boot/cpu_tables.h"
#include "vmm/boot/memory_map.h"
#include "vmm/layout.h"

using namespace plumb;

namespace {

std::unique_ptr<GuestMemory> make_memory(uint64_t bytes = 64 * kMiB) {
  return GuestMemory::create({.size_bytes = bytes}).value();
}

template <typename T>
T read(const GuestMemory& memory, GuestAddress at) {
  T value{};
  REQUIRE(memory.read(at, value));
  return value;
}

uint64_t ram_in(const std::vector<MemoryMapEntry>& map) {
  uint64_t sum = 0;
  for (const auto& entry : map) {
    if (entry.type == MemoryMapEntry::kRam) sum += entry.size;
  }
  return sum;
}

}  // namespace

TEST_CASE("the memory map names all RAM but the reserved part below 1 MiB, and overlaps nowhere") {
  for (const uint64_t bytes : {64 * kMiB, 256 * kMiB, 3 * kGiB, 3 * kGiB + 2 * kMiB, 6 * kGiB}) {
    const std::vector<MemoryMapEntry> map = build_memory_map(bytes);
    INFO(bytes);
    CHECK(ram_in(map) == bytes - (layout::kHighRamStart - layout::kLowRamEnd));
    for (size_t i = 1; i < map.size(); ++i)
      CHECK(map[i].start >= map[i - 1].start + map[i - 1].size);
  }
}

TEST_CASE("RAM beyond 3 GiB continues at 4 GiB") {
  const std::vector<MemoryMapEntry> map = build_memory_map(6 * kGiB);
  CHECK(map[2].start + map[2].size == GuestMemory::kHoleStart);
  CHECK(map.back().start == GuestMemory::kHoleEnd);
  CHECK(map.back().size == 3 * kGiB);
}

// Offsets: Linux Documentation/arch/x86/zero-page.rst.
TEST_CASE("the zero page holds header, command line, initrd, memory map and RSDP") {
  const auto memory = make_memory();
  std::vector<std::byte> header(0x7b, std::byte{0x5a});
  const BootInfo info{.memory_bytes = 64 * kMiB,
                      .initrd = {.start = 0x3000000, .size = 0x1234},
                      .command_line = 0x20000,
                      .rsdp = 0xe0000};
  write_zero_page(*memory, 0x7000, header, info);
  CHECK(read<uint8_t>(*memory, 0x71f1) == 0x5a);
  CHECK(read<uint8_t>(*memory, 0x7210) == 0xff);
  CHECK(read<uint32_t>(*memory, 0x7228) == 0x20000);
  CHECK(read<uint32_t>(*memory, 0x7218) == 0x3000000);
  CHECK(read<uint32_t>(*memory, 0x721c) == 0x1234);
  CHECK(read<uint64_t>(*memory, 0x7070) == 0xe0000);
  CHECK(read<uint8_t>(*memory, 0x71e8) == 4);
  CHECK(read<uint64_t>(*memory, 0x72d0) == 0);
  CHECK(read<uint64_t>(*memory, 0x72d8) == layout::kLowRamEnd);
  CHECK(read<uint32_t>(*memory, 0x72e0) == MemoryMapEntry::kRam);
}

TEST_CASE("a setup header that fills its room does not reach the memory map") {
  const auto memory = make_memory();
  const std::vector<std::byte> header(0x290 - 0x1f1, std::byte{0xff});
  write_zero_page(*memory, 0x7000, header, {.memory_bytes = 64 * kMiB});
  CHECK(read<uint8_t>(*memory, 0x7000 + 0x28f) == 0xff);
  CHECK(read<uint8_t>(*memory, 0x7000 + 0x290) == 0);
}

// Offsets: Xen public/arch-x86/hvm/start_info.h.
TEST_CASE("PVH start info points to its command line, initrd, memory map and RSDP") {
  const auto memory = make_memory();
  const BootInfo info{.memory_bytes = 64 * kMiB,
                      .initrd = {.start = 0x3000000, .size = 0x1234},
                      .command_line = 0x20000,
                      .rsdp = 0xe0000};
  write_pvh_start_info(*memory, 0x6000, info);
  CHECK(read<uint32_t>(*memory, 0x6000) == 0x336ec578);
  CHECK(read<uint32_t>(*memory, 0x6004) == 1);
  CHECK(read<uint32_t>(*memory, 0x600c) == 1);
  const auto modules = read<uint64_t>(*memory, 0x6010);
  CHECK(read<uint64_t>(*memory, modules) == 0x3000000);
  CHECK(read<uint64_t>(*memory, modules + 8) == 0x1234);
  CHECK(read<uint64_t>(*memory, 0x6018) == 0x20000);
  CHECK(read<uint64_t>(*memory, 0x6020) == 0xe0000);
  const auto map = read<uint64_t>(*memory, 0x6028);
  CHECK(read<uint32_t>(*memory, 0x6030) == 4);
  CHECK(read<uint64_t>(*memory, map + 24) == layout::kLowRamEnd);
}

TEST_CASE("without an initrd PVH start info has no modules") {
  const auto memory = make_memory();
  write_pvh_start_info(*memory, 0x6000, {.memory_bytes = 64 * kMiB});
  CHECK(read<uint32_t>(*memory, 0x600c) == 0);
  CHECK(read<uint64_t>(*memory, 0x6010) == 0);
}

TEST_CASE("the page tables map each of the first 4 GiB to itself") {
  const auto memory = make_memory();
  write_identity_page_tables(*memory, 0x9000);
  for (const uint64_t address : {0ULL, 0x1234567ULL, 0xfee00000ULL, 0xffffffffULL}) {
    constexpr uint64_t kFrame = ~0xfffULL;
    const auto pml4e = read<uint64_t>(*memory, 0x9000);
    const auto pdpte = read<uint64_t>(*memory, (pml4e & kFrame) + 8 * (address >> 30U));
    const auto pde = read<uint64_t>(*memory, (pdpte & kFrame) + 8 * ((address >> 21U) & 511U));
    CHECK((pml4e & 3U) == 3);
    CHECK((pdpte & 3U) == 3);
    CHECK((pde & 0x83U) == 0x83);
    CHECK((pde & ~0x1fffffULL) == (address & ~0x1fffffULL));
  }
}
