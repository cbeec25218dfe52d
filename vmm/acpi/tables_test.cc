#include "vmm/acpi/tables.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <span>
#include <string>

#include "base/endian.h"
#include "base/file.h"
#include "tests/temporary_folder.h"
#include "vmm/layout.h"

using namespace plumb;

namespace {

constexpr uint32_t kAddress = layout::kAcpiTables;
using Image = std::vector<std::byte>;

unsigned sum(std::span<const std::byte> bytes) {
  unsigned total = 0;
  for (const std::byte byte : bytes) total += static_cast<unsigned>(byte);
  return total & 0xffU;
}

std::span<const std::byte> table_at(const Image& image, uint64_t address) {
  REQUIRE(address >= kAddress);
  const size_t at = address - kAddress;
  REQUIRE(at + 8 <= image.size());
  const auto length = load_le<uint32_t>(&image[at + 4]);
  REQUIRE(length <= image.size() - at);
  return {&image[at], length};
}

std::string signature(std::span<const std::byte> table) {
  return {reinterpret_cast<const char*>(table.data()), 4};
}

// By signature, found the way a kernel does: RSDP → XSDT → tables → DSDT and FACS.
std::map<std::string, std::span<const std::byte>> find_tables(const Image& image) {
  std::map<std::string, std::span<const std::byte>> found;
  const auto xsdt = table_at(image, load_le<uint64_t>(&image[24]));
  found["XSDT"] = xsdt;
  for (size_t at = 36; at < xsdt.size(); at += 8) {
    const auto table = table_at(image, load_le<uint64_t>(&xsdt[at]));
    found[signature(table)] = table;
  }
  const auto fadt = found.at("FACP");
  found["DSDT"] = table_at(image, load_le<uint64_t>(&fadt[140]));
  found["FACS"] = table_at(image, load_le<uint64_t>(&fadt[132]));
  return found;
}

}  // namespace

TEST_CASE("all tables are there, and their checksums are right") {
  const Image image = build_acpi_tables({.vcpus = 2, .address = kAddress});
  CHECK(std::string(reinterpret_cast<const char*>(image.data()), 8) == "RSD PTR ");
  CHECK(sum(std::span(image).first(20)) == 0);
  CHECK(sum(std::span(image).first(36)) == 0);
  const auto tables = find_tables(image);
  for (const char* name : {"XSDT", "FACP", "APIC", "MCFG", "DSDT"}) {
    INFO(name);
    REQUIRE(tables.contains(name));
    CHECK(sum(tables.at(name)) == 0);
  }
  CHECK((kAddress + (tables.at("FACS").data() - image.data())) % 64 == 0);
}

TEST_CASE("the FADT is of a machine with fixed hardware and a reset register") {
  const Image image = build_acpi_tables({.vcpus = 1, .address = kAddress});
  const auto fadt = find_tables(image).at("FACP");
  REQUIRE(fadt.size() == 276);
  CHECK(load_le<uint16_t>(&fadt[46]) == 9);
  CHECK(load_le<uint32_t>(&fadt[56]) == 0x600);
  CHECK(load_le<uint32_t>(&fadt[64]) == 0x604);
  CHECK(load_le<uint32_t>(&fadt[76]) == 0x608);
  CHECK(load_le<uint32_t>(&fadt[80]) == 0x620);
  CHECK(load_le<uint8_t>(&fadt[108]) == 0x32);
  const auto flags = load_le<uint32_t>(&fadt[112]);
  CHECK((flags & (1U << 20U)) == 0);  // not hardware reduced
  CHECK((flags & (1U << 10U)) != 0);  // reset register
  CHECK((flags & (1U << 4U)) == 0);   // power button in fixed hardware
  CHECK(load_le<uint64_t>(&fadt[120]) == 0xcf9);
  CHECK(load_le<uint8_t>(&fadt[128]) == 6);
  CHECK((load_le<uint16_t>(&fadt[109]) & 2U) == 0);  // no 8042
  CHECK(load_le<uint64_t>(&fadt[212]) == 0x608);
}

TEST_CASE("the MADT lists each vCPU once") {
  for (const uint32_t vcpus : {1U, 2U, 64U}) {
    const Image image = build_acpi_tables({.vcpus = vcpus, .address = kAddress});
    const auto madt = find_tables(image).at("APIC");
    std::set<unsigned> ids;
    std::map<unsigned, unsigned> count;
    for (size_t at = 44; at < madt.size(); at += static_cast<unsigned>(madt[at + 1])) {
      ++count[static_cast<unsigned>(madt[at])];
      if (madt[at] == std::byte{0}) ids.insert(static_cast<unsigned>(madt[at + 3]));
    }
    CHECK(count[0] == vcpus);
    CHECK(ids.size() == vcpus);
    CHECK(count[1] == 1);
    CHECK(count[2] == 2);
    CHECK(image.size() <= layout::kGenerationId - kAddress);
  }
}

TEST_CASE("the MCFG says where ECAM is") {
  const Image image = build_acpi_tables({.vcpus = 1, .address = kAddress});
  const auto mcfg = find_tables(image).at("MCFG");
  CHECK(load_le<uint64_t>(&mcfg[44]) == 0xe0000000);
  CHECK(load_le<uint8_t>(&mcfg[55]) == 255);
}

TEST_CASE("iasl takes each table apart without complaint") {
  const Image image = build_acpi_tables({.vcpus = 2, .address = kAddress});
  const TemporaryFolder folder;
  for (const auto& [name, table] : find_tables(image)) {
    INFO(name);
    const std::string path = folder.path() + "/" + name;
    std::ofstream(path + ".aml", std::ios::binary)
        .write(reinterpret_cast<const char*>(table.data()),
               static_cast<std::streamsize>(table.size()));
    const std::string command =
        "cd " + folder.path() + " && iasl -d " + name + ".aml > " + name + ".log 2>&1";
    CHECK(std::system(command.c_str()) == 0);
    const std::string log = read_file(path + ".log").value();
    INFO(log);
    CHECK(log.find("rror") == std::string::npos);
    CHECK(log.find("nvalid") == std::string::npos);
    const std::string text = read_file(path + ".dsl").value();
    CHECK(text.find("Invalid") == std::string::npos);
    CHECK(text.find("ncorrect checksum") == std::string::npos);
    if (name != "DSDT") continue;
    CHECK(text.find("PNP0A08") != std::string::npos);
    CHECK(text.find(fmt::format("0x{:08X}", layout::kGenerationId)) != std::string::npos);
  }
}
