// Command descriptor blocks, parsed. Sources: SPC-4 chapter 6 and SBC-3 chapter 5.
//
// Pure. Every bound of a command that reads or writes the medium is checked here against the
// geometry; a CDB with a bit set that the command does not use is refused.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "blockdev/scsi_lun.h"

namespace plumb {

enum class ScsiAction : uint8_t {
  kTestUnitReady,
  kRequestSense,
  kInquiry,
  kModeSense,
  kModeSelect,
  kReportLuns,
  kReportOperations,
  kReadCapacity10,
  kReadCapacity16,
  kNothing,  // succeeds: START STOP UNIT, PREVENT ALLOW, SEND DIAGNOSTIC, PRE-FETCH
  kRead,
  kWrite,
  kWriteVerify,
  kVerify,
  kCompareAndWrite,
  kWriteSame,
  kUnmap,
  kSynchronize,
  kReserve,  // PERSISTENT RESERVE IN and OUT
};

// What of a disk the parser needs to know.
struct ScsiGeometry {
  uint64_t blocks = 0;
  uint32_t block_size = 512;
  uint32_t max_transfer_blocks = 0;    // of a read or write
  uint32_t max_write_same_blocks = 0;  // 0: WRITE SAME is not offered
  bool unmaps = false;                 // UNMAP is offered
  bool read_only = false;
  bool reserves = false;  // PERSISTENT RESERVE is offered
};

inline constexpr uint32_t kScsiMaxCompareBlocks = 8;  // of COMPARE AND WRITE

struct ScsiOperation {
  ScsiAction action = ScsiAction::kNothing;
  uint64_t lba = 0;
  uint32_t blocks = 0;
  uint32_t parameter_bytes = 0;  // allocation length, or length of the parameter list
  bool fua = false;
  bool no_data = false;              // kWriteSame: zeroes are meant, and none sent (NDOB)
  bool unmap = false;                // kWriteSame
  bool compares = false;             // kVerify, kWriteVerify: with the data sent (BYTCHK)
  bool descriptor_sense = false;     // kRequestSense: DESC
  bool ten_byte_mode = false;        // kModeSense, kModeSelect: the long header
  bool vital_page = false;           // kInquiry: EVPD
  bool no_block_descriptor = false;  // kModeSense: DBD
  uint8_t page_control = 0;          // kModeSense
  uint8_t page = 0;                  // kInquiry, kModeSense
  uint8_t subpage = 0;               // kModeSense
  uint8_t reporting = 0;       // kReportOperations: REPORTING OPTIONS; kReportLuns: SELECT REPORT
  bool with_timeouts = false;  // kReportOperations: RCTD
  uint8_t asked_code = 0;      // kReportOperations
  uint16_t asked_service_action = 0;
};

// sense::kNone, and `operation` is set; or why the command is refused.
ScsiSense parse_cdb(std::span<const uint8_t, kScsiCdbBytes> cdb, const ScsiGeometry& geometry,
                    ScsiOperation& operation);

// The answer to REPORT SUPPORTED OPERATION CODES (SPC-4 6.35), not cut to any length; sense::kNone
// or why it is refused.
ScsiSense report_operations(const ScsiOperation& operation, const ScsiGeometry& geometry,
                            std::vector<uint8_t>& answer);

}  // namespace plumb
