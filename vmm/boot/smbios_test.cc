#include "vmm/boot/smbios.h"

#include <catch2/catch.hpp>
#include <map>
#include <span>
#include <string>

#include "base/endian.h"
#include "vmm/layout.h"

using namespace plumb;

namespace {

using Image = std::vector<std::byte>;
constexpr char kUuid[] = "00112233-4455-6677-8899-aabbccddeeff";

struct Structure {
  std::span<const std::byte> fixed;
  std::vector<std::string> strings;

  // The string that the field at `offset` names.
  std::string text(size_t offset) const {
    const auto number = static_cast<unsigned>(fixed[offset]);
    REQUIRE(number <= strings.size());
    return number == 0 ? "" : strings[number - 1];
  }
};

Image build() {
  return build_smbios({.uuid = Uuid::parse(kUuid).value(), .address = layout::kSmbios});
}

// By type, walked as a kernel does: fixed part, strings up to an empty one.
std::map<unsigned, Structure> walk(const Image& image) {
  std::map<unsigned, Structure> found;
  size_t at = load_le<uint64_t>(&image[16]) - layout::kSmbios;
  const size_t end = at + load_le<uint32_t>(&image[12]);
  REQUIRE(end == image.size());
  while (at < end) {
    const auto type = static_cast<unsigned>(image[at]);
    const auto length = static_cast<unsigned>(image[at + 1]);
    REQUIRE(length >= 4);
    REQUIRE(at + length + 2 <= end);
    Structure structure{.fixed = {&image[at], length}, .strings = {}};
    at += length;
    std::string string;
    do {
      string = reinterpret_cast<const char*>(&image[at]);
      at += string.size() + 1;
      if (!string.empty()) structure.strings.push_back(string);
    } while (!string.empty());
    if (structure.strings.empty()) ++at;
    CHECK(found.emplace(type, structure).second);
    if (type == 127) break;
  }
  CHECK(at == end);
  return found;
}

}  // namespace

TEST_CASE("the SMBIOS entry point is where Linux looks, and its checksum is right") {
  const Image image = build();
  CHECK(layout::kSmbios >= 0xf0000);
  CHECK(layout::kSmbios % 16 == 0);
  CHECK(layout::kSmbios + image.size() <= layout::kHighRamStart);
  CHECK(std::string(reinterpret_cast<const char*>(image.data()), 5) == "_SM3_");
  REQUIRE(image[6] == std::byte{24});
  unsigned sum = 0;
  for (size_t i = 0; i < 24; ++i) sum += static_cast<unsigned>(image[i]);
  CHECK((sum & 0xffU) == 0);
  CHECK(image[7] == std::byte{3});
}

TEST_CASE("the system has the definition's UUID, and says who made it") {
  const Image image = build();
  const auto structures = walk(image);
  const Structure& system = structures.at(1);
  REQUIRE(system.fixed.size() == 0x1b);
  CHECK(system.text(4) == "plumb");
  CHECK(system.text(5) == "plumb VM");
  CHECK(system.text(6) == "1");
  CHECK(system.text(7).empty());
  CHECK(load_le<uint32_t>(&system.fixed[8]) == 0x00112233);
  CHECK(load_le<uint16_t>(&system.fixed[12]) == 0x4455);
  CHECK(load_le<uint16_t>(&system.fixed[14]) == 0x6677);
  CHECK(load_be<uint64_t>(&system.fixed[16]) == 0x8899aabbccddeeff);
}

TEST_CASE("the other structures are whole, and the BIOS is a virtual machine's") {
  const Image image = build();
  const auto structures = walk(image);
  CHECK(structures.size() == 4);
  const Structure& bios = structures.at(0);
  REQUIRE(bios.fixed.size() == 0x18);
  CHECK(bios.text(4) == "plumb");
  CHECK((bios.fixed[0x13] & std::byte{0x10}) != std::byte{0});
  const Structure& chassis = structures.at(3);
  REQUIRE(chassis.fixed.size() == 0x16);
  CHECK(chassis.text(4) == "plumb");
  CHECK(structures.at(127).fixed.size() == 4);
}
