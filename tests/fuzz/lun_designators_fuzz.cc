// VPD pages 0x83 and 0x80, as a target sends it.
#include <cstddef>
#include <cstdint>

#include "rdm/lun_designators.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<plumb::LunId> names =
      plumb::lun_names({reinterpret_cast<const std::byte*>(data), size});
  for (const plumb::LunId& name : names) ENSURE(plumb::names_lun(names, name));
  for (const char c : plumb::unit_serial({reinterpret_cast<const std::byte*>(data), size})) {
    ENSURE(c > 0x20 && c < 0x7f);
  }
  return 0;
}
