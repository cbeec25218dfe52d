#include "vmm/boot/smbios.h"

#include <initializer_list>
#include <string_view>

#include "base/check.h"
#include "vmm/table_bytes.h"

namespace plumb {
namespace {

constexpr size_t kEntryPointSize = 24;
constexpr size_t kTableAt = 32;  // from the entry point, which is on a boundary of 16
constexpr unsigned kNone = 0;    // the number of a string that is not there

constexpr std::string_view kManufacturer = "plumb";
constexpr std::string_view kProduct = "plumb VM";
// Of the machine as a guest sees it: another plumb does not make it another machine.
constexpr std::string_view kVersion = "1";

// 6.1.2: type, length of the fixed part, handle. The fixed part follows.
void start_structure(TableBytes& table, unsigned type, unsigned length) {
  table.u8(type);
  table.u8(length);
  table.u16(static_cast<uint16_t>(type));  // the handle: there is one structure of each type
}

// 6.1.3: the strings, which fields name by their numbers from 1 on; two zeroes end a structure.
void end_structure(TableBytes& table, std::initializer_list<std::string_view> strings) {
  for (const std::string_view string : strings) {
    table.text(string);
    table.u8(0);
  }
  table.zeroes(strings.size() == 0 ? 2 : 1);
}

// 7.1. Without a release date: the kernel takes its year for the age of a real machine's firmware.
void add_bios(TableBytes& table) {
  constexpr uint64_t kCharacteristicsUnknown = 1U << 3U;
  constexpr unsigned kVirtualMachine = 1U << 4U;
  start_structure(table, 0, 0x18);
  table.u8(1);   // vendor
  table.u8(2);   // version
  table.u16(0);  // segment: there is no code
  table.u8(kNone);
  table.u8(0);  // ROM of 64 KiB, the least that can be said
  table.u64(kCharacteristicsUnknown);
  table.u8(0);
  table.u8(kVirtualMachine);
  for (int i = 0; i < 4; ++i) table.u8(0xff);  // no releases of BIOS and embedded controller
  end_structure(table, {kManufacturer, kVersion});
}

// 7.2
void add_system(TableBytes& table, const Uuid& uuid) {
  constexpr unsigned kPowerSwitch = 6;
  start_structure(table, 1, 0x1b);
  table.u8(1);      // manufacturer
  table.u8(2);      // product
  table.u8(3);      // version
  table.u8(kNone);  // serial number
  for (const std::byte byte : uuid.guid_bytes()) table.u8(static_cast<unsigned>(byte));
  table.u8(kPowerSwitch);  // what started it
  table.u8(kNone);         // SKU number
  table.u8(kNone);         // family
  end_structure(table, {kManufacturer, kProduct, kVersion});
}

// 7.4
void add_chassis(TableBytes& table) {
  constexpr unsigned kOther = 1;
  constexpr unsigned kUnknown = 2;
  constexpr unsigned kSafe = 3;
  start_structure(table, 3, 0x16);
  table.u8(1);       // manufacturer
  table.u8(kOther);  // type
  table.u8(kNone);   // version
  table.u8(kNone);   // serial number
  table.u8(kNone);   // asset tag
  table.u8(kSafe);   // state at the last boot
  table.u8(kSafe);   // of the power supply
  table.u8(kSafe);   // thermal
  table.u8(kUnknown);
  table.u32(0);  // for the manufacturer
  table.u8(0);   // height
  table.u8(0);   // power cords
  table.u8(0);   // contained elements, and the size of each
  table.u8(0);
  table.u8(kNone);  // SKU number
  end_structure(table, {kManufacturer});
}

// 5.2.2
TableBytes build_entry_point(uint32_t table_address, uint32_t table_size) {
  TableBytes entry;
  entry.text("_SM3_");
  entry.u8(0);  // checksum
  entry.u8(kEntryPointSize);
  entry.u8(3);  // version 3.0.0
  entry.u8(0);
  entry.u8(0);
  entry.u8(1);  // revision of the entry point
  entry.u8(0);
  entry.u32(table_size);
  entry.u64(table_address);
  entry.checksum(5, kEntryPointSize);
  return entry;
}

}  // namespace

std::vector<std::byte> build_smbios(const SmbiosConfig& config) {
  ENSURE(config.address % 16 == 0);
  TableBytes table;
  add_bios(table);
  add_system(table, config.uuid);
  add_chassis(table);
  start_structure(table, 127, 4);
  end_structure(table, {});

  std::vector<std::byte> image =
      build_entry_point(config.address + kTableAt, static_cast<uint32_t>(table.size())).take();
  image.resize(kTableAt);
  const std::vector<std::byte> structures = table.take();
  image.insert(image.end(), structures.begin(), structures.end());
  return image;
}

}  // namespace plumb
