// What a LUN says of its own identity: the designators of VPD page 0x83 (SPC-4 7.8.6), and the
// serial number of page 0x80. Pure.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "rdm/lun_id.h"

namespace plumb {

// The logical unit's names in `page`, as it comes from INQUIRY: NAA, EUI-64, T10 and name strings,
// in its order. What is malformed, or names a port or a target, is left out.
std::vector<LunId> lun_names(std::span<const std::byte> page);

// The unit serial number in VPD page 0x80 (SPC-4 7.8.17), without blanks; "" when there is none.
std::string unit_serial(std::span<const std::byte> page);

// Whether one of `names` is `id`. T10 names are compared without the blanks that the kernel and
// multipath write in their own ways.
bool names_lun(const std::vector<LunId>& names, const LunId& id);

}  // namespace plumb
