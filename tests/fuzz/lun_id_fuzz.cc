// LUN identities, multipath UUIDs, and the kernel's mount and swap tables.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "rdm/claim.h"
#include "rdm/lun_id.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  plumb::Result<plumb::LunId> id = plumb::LunId::parse(text);
  if (id.ok()) {
    // The canonical text is a fixed point.
    plumb::Result<plumb::LunId> again = plumb::LunId::parse(id.value().text());
    ENSURE(again.ok() && again.value() == id.value());
  }
  static_cast<void>(plumb::LunId::from_multipath_uuid(text).ok());
  static_cast<void>(plumb::mount_point_in(text, "sda", "8:0"));
  static_cast<void>(plumb::is_swap_in(text, "sda"));
  return 0;
}
