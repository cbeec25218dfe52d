// Opens what a disk of a VM definition names: an image file, a LUN found by its identity, or the
// LUN of a mapping file.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/file_facts.h"
#include "cli/definition.h"
#include "rdm/claim.h"

namespace plumb {

// A claimed LUN or locked image: as long as its descriptors are open.
struct DiskSource {
  UniqueFd fd;
  std::string label;                  // "image root.img", "LUN naa.…"
  std::string device;                 // the path behind it now: "/dev/sdb", "/srv/root.img"
  std::string wwn;                    // of a LUN
  UniqueFd mapping;                   // the lock of the mapping file; none without one
  UniqueFd overlay;                   // of the newest snapshot that the VM keeps; none without one
  ClaimOptions claim;                 // of a LUN: how it was claimed
  FileFacts facts;                    // of what `fd` is
  bool fua = false;                   // of a LUN: the host's driver uses FUA
  uint64_t transfer_limit_bytes = 0;  // in physical mode: of one SCSI command; else 0

  bool physical() const { return transfer_limit_bytes > 0; }
  // Which disk it is, for snapshots that its VM keeps.
  const std::string& identity() const { return wwn.empty() ? device : wwn; }
};

// The source that a claimed LUN is; it is still to be examined.
DiskSource source_of(const LunResolver& resolver, ClaimedLun claimed, const ClaimOptions& options);

// Of each disk of a VM, in their order: locks the image, or locks the mapping, and finds and claims
// the LUN. A LUN that is not what its mapping recorded (smaller, other blocks, another serial
// number) is refused, one that is two of the disks, and in physical mode one that takes no SCSI
// commands or is not on the SCSI bus. Error kLocked, too: a revert that is not finished has a disk.
Result<std::vector<DiskSource>> open_sources(const std::vector<DiskDefinition>& disks);

}  // namespace plumb
