// How much one SCSI command of a guest can move to or from a LUN by SG_IO, which splits nothing.
#pragma once

#include "base/result.h"
#include "rdm/lun_resolver.h"

namespace plumb {

// In bytes, a multiple of 4 KiB: the least of the LUN's and its paths' own limits, for buffers that
// are scattered page by page, and of what ScsiDisk takes. Errors: an NVMe namespace, or a device
// that is no SCSI disk: those take no SCSI commands.
Result<uint64_t> transfer_limit(const Lun& lun, const SystemRoots& roots = {});

}  // namespace plumb
