// EXTENDED COPY (LID1): a LUN of an array has the array copy blocks from one of its LUNs to
// another, past the host. SPC-4 6.4 (the command), 6.4.6 (descriptors), 6.24 (RECEIVE COPY
// OPERATING PARAMETERS).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "rdm/lun_id.h"
#include "rdm/scsi_transport.h"

namespace plumb {

// A LUN as the copy manager finds it: by the designator that both it and the host know.
struct CopyLun {
  uint8_t designator_type = 0;  // 3: NAA, 2: EUI-64
  std::vector<uint8_t> designator;
  uint32_t block_bytes = 0;
};

// Errors: an identity that a copy manager has no descriptor for.
Result<CopyLun> copy_lun(const LunId& id, uint32_t block_bytes);

struct CopyLimits {
  uint64_t segment_bytes = 0;  // of one segment; 0: no limit
};

// What a copy manager says that it can do. Errors: an answer that is none, no copies between disks,
// or no LUNs by their identity. Pure.
Result<CopyLimits> parse_operating_parameters(std::span<const uint8_t> answer);

// The parameter list that copies `blocks` (at most 65535) at `first_block` of `from` to the same
// place of `to`. Pure.
std::vector<uint8_t> copy_parameters(const CopyLun& from, const CopyLun& to, uint64_t first_block,
                                     uint16_t blocks);

class ExtendedCopy {
 public:
  // `manager`: the LUN that is sent the commands, `to` or `from`; it outlives this. Blocks of both
  // are of one size.
  ExtendedCopy(ScsiTransport& manager, CopyLun from, CopyLun to)
      : manager_(manager), from_(std::move(from)), to_(std::move(to)) {}

  // Errors: the LUN copies nothing, or its answer is none.
  static Result<CopyLimits> limits_of(ScsiTransport& manager);

  // Copies so many blocks from the first on, segment by segment; blocks for minutes. An error says
  // what the LUN said; then some may be copied.
  Result<> copy(uint64_t blocks, const CopyLimits& limits);

 private:
  Result<> copy_segment(uint64_t first_block, uint16_t blocks);

  ScsiTransport& manager_;
  const CopyLun from_;
  const CopyLun to_;
};

}  // namespace plumb
