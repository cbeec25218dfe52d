// What becomes of each SCSI command that a guest sends to a LUN in physical mode. Default-deny:
// what is not in the table of cdb_policy.cc does not reach the LUN. docs/rdm.md has the list with
// its reasons. Sources: SPC-4, SBC-3; SAM-5 5.2 for the control byte.
//
// Pure. The kernel's own filter is no substitute: it lets UNMAP pass on a read-only descriptor.
#pragma once

#include <cstdint>
#include <span>

#include "blockdev/scsi_lun.h"

namespace plumb {

enum class CdbClass : uint8_t {
  kEngine,       // blocks are read, written or flushed by the Disk; odd forms are passed
  kPass,         // the LUN answers: the CDB as it is, by SG_IO
  kEmulate,      // answered here, the LUN does not see it
  kReservation,  // the reservation broker carries it out
  kDeny,
};

struct CdbVerdict {
  CdbClass what = CdbClass::kDeny;
  ScsiSense sense = sense::kNone;  // of kDeny: why
  bool changes = false;            // the medium may be different afterwards
  bool repeatable = true;          // sent twice, it does what it does once
};

// Each CDB, whatever is in it; `read_only`: the guest may read the LUN only.
CdbVerdict judge_cdb(std::span<const uint8_t, kScsiCdbBytes> cdb, bool read_only);

// Whether a guest that may write can have the operation at all, whatever else is in the CDB.
bool cdb_offered(uint8_t code, uint16_t service_action);
// Whether byte 1 of such CDBs tells what they do.
bool cdb_has_service_actions(uint8_t code);

enum class CdbData : uint8_t { kNone, kIn, kOut };

// What a CDB that is engine or pass has the LUN move at most, and which field says so.
struct CdbTransfer {
  CdbData direction = CdbData::kNone;
  uint64_t bytes = 0;
  bool of_blocks = false;    // the LUN moves exactly so many; else at most, and less is usual
  uint8_t length_at = 0;     // the field that counts bytes: where it is in the CDB,
  uint8_t length_bytes = 0;  // and its own size; 0: there is none
};
CdbTransfer transfer_of(std::span<const uint8_t, kScsiCdbBytes> cdb, uint32_t block_size);

// How long the CDB is, by its group code (SPC-4 4.2.5.1); 0 for groups without a length.
size_t cdb_length(uint8_t code);

// Sets the `bytes` bytes of the big-endian field at `at`; `value` fits.
void set_cdb_field(std::span<uint8_t> cdb, uint8_t at, uint8_t bytes, uint64_t value);

}  // namespace plumb
