#include "rdm/transfer_limit.h"

#include <algorithm>

#include "base/aligned_memory.h"
#include "base/file.h"
#include "blockdev/limits.h"

namespace plumb {
Result<uint64_t> transfer_limit(const Lun& lun, const SystemRoots& roots) {
  if (lun.transport == Lun::Transport::kNvme) {
    return failed("LUN {} is an NVMe namespace, which takes no SCSI commands", lun.id.text());
  }
  if (lun.transport == Lun::Transport::kVolume) {
    return failed("LUN {} is a volume of this host, which takes no SCSI commands", lun.id.text());
  }
  if (lun.paths.empty()) return failed("LUN {} has no path now", lun.id.text());
  uint64_t most = kScsiMaxTransferBytes;
  for (const LunPath& path : lun.paths) {
    const std::string block = roots.sys + "/block/" + path.name;
    // The kernel's number of a disk (SPC-4 6.4.2, peripheral device type).
    if (read_attribute(block + "/device/type") != "0") {
      return failed("LUN {} is not a SCSI disk ({}), and takes no SCSI commands", lun.id.text(),
                    path.name);
    }
    most = std::min(most, read_number_attribute(block + "/queue/max_hw_sectors_kb") << 10U);
    most = std::min(most, read_number_attribute(block + "/queue/max_segments") * kPageBytes);
  }
  most = most / kPageBytes * kPageBytes;
  if (most < kPageBytes) {
    return failed("LUN {} does not tell how much a command can move", lun.id.text());
  }
  return most;
}

}  // namespace plumb
