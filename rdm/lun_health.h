// Whether a LUN answers, and still is the one it was: asked of the LUN itself, on every path. The
// kernel's own record of an identity (sysfs) is from the device's discovery, and stays when the
// array puts another LUN in its place.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "rdm/lun_resolver.h"

namespace plumb {

enum class LunState : uint8_t {
  kWell,    // answers on a path, and wherever it answers it is the right one
  kSilent,  // a path runs, but gives no answer
  kLost,    // no path runs
  kOther,   // something else answers on one of its paths
};

struct LunHealth {
  LunState state = LunState::kWell;
  std::string reason;  // what is wrong: half a sentence; "" when well
};

// A VPD page of the SCSI device at a path such as /dev/sda. Blocks for seconds at most.
using InquirePage =
    std::function<Result<std::vector<std::byte>>(const std::string& device, uint8_t page)>;
// By SG_IO.
Result<std::vector<std::byte>> inquire_page(const std::string& device, uint8_t page);

// `lun` as the resolver has just found it. An NVMe namespace is what the kernel says: it compares
// identifiers itself whenever a controller is connected again.
LunHealth examine_lun(const LunResolver& resolver, const Lun& lun,
                      const InquirePage& inquire = inquire_page);

}  // namespace plumb
