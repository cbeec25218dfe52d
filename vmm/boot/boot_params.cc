#include "vmm/boot/boot_params.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "vmm/boot/memory_map.h"

namespace plumb {
namespace {

constexpr uint8_t kLoaderUndefined = 0xff;  // type_of_loader: none of the registered ones
constexpr uint32_t kPvhMagic = 0x336ec578;

struct PvhStartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t modules;
  uint64_t module_list;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
static_assert(sizeof(PvhStartInfo) == 56);

struct PvhModule {
  uint64_t address;
  uint64_t size;
  uint64_t command_line;
  uint64_t reserved;
};
static_assert(sizeof(PvhModule) == 32);

struct PvhMemoryMapEntry {
  uint64_t address;
  uint64_t size;
  uint32_t type;
  uint32_t reserved;
};
static_assert(sizeof(PvhMemoryMapEntry) == 24);

uint32_t low(uint64_t value) { return static_cast<uint32_t>(value); }
uint32_t high(uint64_t value) { return static_cast<uint32_t>(value >> 32U); }

}  // namespace

void write_zero_page(const GuestMemory& memory, GuestAddress at,
                     std::span<const std::byte> setup_header, const BootInfo& info) {
  boot_params params{};
  // The header may be longer than the kernel's that we were compiled with: there is room for it
  // up to the next field.
  constexpr size_t kStart = offsetof(boot_params, hdr);
  constexpr size_t kEnd = offsetof(boot_params, edd_mbr_sig_buffer);
  ENSURE(setup_header.size() <= kEnd - kStart);
  std::memcpy(reinterpret_cast<std::byte*>(&params) + kStart, setup_header.data(),
              setup_header.size());
  params.hdr.type_of_loader = kLoaderUndefined;
  params.hdr.cmd_line_ptr = low(info.command_line);
  params.ext_cmd_line_ptr = high(info.command_line);
  params.hdr.ramdisk_image = low(info.initrd.start);
  params.ext_ramdisk_image = high(info.initrd.start);
  params.hdr.ramdisk_size = low(info.initrd.size);
  params.ext_ramdisk_size = high(info.initrd.size);
  params.acpi_rsdp_addr = info.rsdp;
  for (const MemoryMapEntry& entry : build_memory_map(info.memory_bytes)) {
    ENSURE(params.e820_entries < E820_MAX_ENTRIES_ZEROPAGE);
    params.e820_table[params.e820_entries++] = {entry.start, entry.size, entry.type};
  }
  ENSURE(memory.write(at, params));
}

void write_pvh_start_info(const GuestMemory& memory, GuestAddress at, const BootInfo& info) {
  const GuestAddress module_list = at + sizeof(PvhStartInfo);
  const GuestAddress memory_map = module_list + sizeof(PvhModule);
  PvhStartInfo start{};
  start.magic = kPvhMagic;
  start.version = 1;
  start.command_line = info.command_line;
  start.rsdp = info.rsdp;
  start.memory_map = memory_map;
  if (info.initrd.size != 0) {
    start.modules = 1;
    start.module_list = module_list;
    ENSURE(memory.write(module_list, PvhModule{info.initrd.start, info.initrd.size, 0, 0}));
  }
  for (const MemoryMapEntry& entry : build_memory_map(info.memory_bytes)) {
    const GuestAddress to = memory_map + start.memory_map_entries++ * sizeof(PvhMemoryMapEntry);
    ENSURE(memory.write(to, PvhMemoryMapEntry{entry.start, entry.size, entry.type, 0}));
  }
  ENSURE(memory.write(at, start));
}

}  // namespace plumb
