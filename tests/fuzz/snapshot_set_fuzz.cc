// A record of a snapshot: any text is a record that prints as it was read, or gives a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/lease_messages.h"
#include "snapshot/snapshot_set.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  plumb::Result<plumb::SnapshotSet> set = plumb::set_from_json(json, "fuzz.json");
  if (set.ok()) {
    const nlohmann::json printed = plumb::set_to_json(set.value());
    ENSURE(plumb::set_to_json(plumb::set_from_json(printed, "again").value()) == printed);
  } else {
    ENSURE(!set.error().message.empty());
  }
  static_cast<void>(plumb::facts_from_json(json));
  return 0;
}
