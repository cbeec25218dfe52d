// A mapping file: any text is a mapping that prints as the same text, or gives a sentence. It is
// also tried with a right checksum, and as a value in a good mapping, or little would get past
// these.
#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>

#include "base/crc32c.h"
#include "rdm/mapping_file.h"

namespace {

void read(const std::string& text) {
  plumb::Result<plumb::MappingFile> mapping = plumb::parse_mapping(text, "fuzz.rdm");
  if (mapping.ok()) {
    ENSURE(plumb::print_mapping(mapping.value()) == text);
  } else {
    ENSURE(!mapping.error().message.empty());
  }
}

std::string sealed(const std::string& before) {
  return before + fmt::format("crc32c = {:08x}\n", plumb::crc32c(before));
}

constexpr const char* kGood[][2] = {{"uuid", "3f2504e0-4f89-41d3-9a0c-0305e82c3301"},
                                    {"mode", "virtual"},
                                    {"wwid", "naa.60014051234abcd5000000000000000a"},
                                    {"serial", "serial"},
                                    {"size-bytes", "1048576"},
                                    {"logical-block-size", "512"},
                                    {"sharing", "exclusive"},
                                    {"allow-weak-identity", "false"}};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  read(text);
  read(sealed(text));
  if (text.empty()) return 0;
  std::string lines = "plumb-rdm 1\n";
  for (size_t i = 0; i < std::size(kGood); ++i) {
    const bool replaced = data[0] % std::size(kGood) == i;
    lines += fmt::format("{} = {}\n", kGood[i][0], replaced ? text.substr(1) : kGood[i][1]);
  }
  read(sealed(lines));
  return 0;
}
