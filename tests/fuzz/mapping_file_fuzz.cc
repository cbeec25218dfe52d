// A mapping file: any text is a mapping that prints as the same text, or gives a sentence. The
// checksum is made right as well, or nothing would get past it.
#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  read(text);
  read(text + fmt::format("crc32c = {:08x}\n", plumb::crc32c(text)));
  const std::string lines =
      "plumb-rdm 1\nuuid = 3f2504e0-4f89-41d3-9a0c-0305e82c3301\nmode = virtual\n" + text;
  read(lines + fmt::format("crc32c = {:08x}\n", plumb::crc32c(lines)));
  return 0;
}
