// What of a LUN's own answers is changed before a guest in physical mode sees them: only what would
// not be true for the guest, which has one path, transfers of bounded length, and not all commands.
// Pure. Sources: SPC-4 6.4, 6.35, 7.5; SBC-3 5.16, 6.5.3.
#pragma once

#include <cstdint>
#include <span>

#include "blockdev/scsi_lun.h"

namespace plumb {

struct LunView {
  uint32_t max_transfer_blocks = 0;  // of one command
  bool read_only = false;
};

// Changes `answer`, which the LUN has given to `cdb`, whole or cut, in place; returns how many of
// its bytes are left.
//   INQUIRY: no NACA, target port groups, third-party copy and protection
//   VPD B0 (block limits): no transfer beyond the view's, no atomic writes
//   READ CAPACITY(16): no protection
//   MODE SENSE: write-protected when the view is read-only
//   REPORT SUPPORTED OPERATION CODES: those that the policy lets the guest have
size_t adjust_answer(std::span<const uint8_t, kScsiCdbBytes> cdb, std::span<uint8_t> answer,
                     const LunView& view);

// As long as the answer to REPORT SUPPORTED OPERATION CODES may be, which is asked for whole.
inline constexpr uint32_t kOperationCodesBytes = 32U << 10U;
bool reports_operation_codes(std::span<const uint8_t, kScsiCdbBytes> cdb);

}  // namespace plumb
