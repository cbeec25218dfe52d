// Opens what a disk of a VM definition names: an image file, a LUN found by its identity, or the
// LUN of a mapping file.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/definition.h"
#include "rdm/reservation_client.h"

namespace plumb {

// A claimed LUN or locked image: as long as its descriptors are open.
struct DiskSource {
  UniqueFd fd;
  std::string label;   // "image root.img", "LUN naa.…"
  std::string device;  // the path behind it now: "/dev/sdb", "/srv/root.img"
  std::string wwn;     // of a LUN
  UniqueFd mapping;    // the lock of the mapping file; none without one

  // Of a LUN on the SCSI bus.
  ReservationClient::Connect to_broker;  // a connection made now: later the process may not
  uint64_t transfer_limit_bytes = 0;     // in physical mode: of one SCSI command; else 0
  bool fua = false;                      // the host's driver uses FUA

  bool physical() const { return transfer_limit_bytes > 0; }
};

// Of each disk of a VM, in their order: locks the image, or locks the mapping, and finds and claims
// the LUN. A LUN that is not what its mapping recorded (smaller, other blocks, another serial
// number) is refused, one that is two of the disks, and in physical mode one that takes no SCSI
// commands or is not on the SCSI bus.
Result<std::vector<DiskSource>> open_sources(const std::vector<DiskDefinition>& disks);

}  // namespace plumb
