// The tables of plumb.toml about snapshots: any text gives arrays and a limit, or a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/arrays/array_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto arrays = plumb::read_arrays(text, "fuzz.toml", "/state");
  if (arrays.ok()) {
    for (const auto& array : arrays.value()) ENSURE(!plumb::array_name(array).empty());
  } else {
    ENSURE(!arrays.error().message.empty());
  }
  auto limit = plumb::read_overlay_limit(text, "fuzz.toml");
  ENSURE(limit.ok() || !limit.error().message.empty());
  return 0;
}
