// The journal of a revert, and a generation record: any text is one that prints as it was read, or
// gives a sentence.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "snapshot/revert_journal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  plumb::Result<plumb::RevertJournal> journal = plumb::revert_from_json(json, "fuzz.json");
  if (journal.ok()) {
    const nlohmann::json printed = plumb::revert_to_json(journal.value());
    ENSURE(plumb::revert_to_json(plumb::revert_from_json(printed, "again").value()) == printed);
  } else {
    ENSURE(!journal.error().message.empty());
  }
  plumb::Result<plumb::Generation> record = plumb::generation_from_json(json, "fuzz.json");
  if (record.ok()) {
    const nlohmann::json printed = plumb::generation_to_json(record.value());
    ENSURE(plumb::generation_to_json(plumb::generation_from_json(printed, "again").value()) ==
           printed);
  }
  return 0;
}
