// A VM definition as a file and as flags: any text gives a definition or a sentence.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "cli/definition.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  plumb::VmDefinition definition;
  plumb::Result<> read = plumb::read_toml(text, "fuzz.toml", definition);
  if (read.ok()) read = plumb::complete(definition);
  if (read.ok()) {
    // What was accepted survives the way to the VM's process.
    ENSURE(plumb::from_json(plumb::to_json(definition)).ok());
  } else {
    ENSURE(!read.error().message.empty());
  }
  static_cast<void>(plumb::parse_disk_flag(text, plumb::DiskFlag::kImage).ok());
  static_cast<void>(plumb::parse_disk_flag(text, plumb::DiskFlag::kLun).ok());
  static_cast<void>(plumb::parse_disk_flag(text, plumb::DiskFlag::kRdm).ok());
  static_cast<void>(plumb::parse_net_flag(text).ok());
  return 0;
}
