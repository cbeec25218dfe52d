// Fuzzes what decides which of a guest's SCSI commands reach a LUN. What must hold: nothing that
// may harm other LUNs, other hosts or the LUN itself passes, whatever is in the rest of the CDB; a
// guest that may only read changes nothing; what moves data has a length that is its own.
#include <algorithm>
#include <cstdint>

#include "rdm/cdb_policy.h"

namespace {

using namespace plumb;

// FORMAT UNIT, REASSIGN BLOCKS, MODE SELECT, RESERVE and RELEASE, COPY, RECEIVE DIAGNOSTIC, WRITE
// and READ BUFFER, READ and WRITE LONG, CHANGE DEFINITION, SANITIZE, LOG SELECT, MODE SELECT(10),
// EXTENDED COPY, RECEIVE COPY RESULTS, ATA PASS-THROUGH, ACCESS CONTROL, ATTRIBUTES, READ
// BUFFER(16), SERVICE ACTION OUT, SECURITY PROTOCOL, MAINTENANCE OUT, variable length.
constexpr uint8_t kNever[] = {0x04, 0x07, 0x15, 0x16, 0x17, 0x18, 0x1c, 0x3b, 0x3c, 0x3e, 0x3f,
                              0x40, 0x48, 0x4c, 0x55, 0x56, 0x57, 0x7f, 0x83, 0x84, 0x85, 0x86,
                              0x87, 0x8c, 0x8d, 0x9b, 0x9f, 0xa1, 0xa2, 0xa4, 0xa9, 0xb5};
constexpr uint8_t kWrites[] = {0x0a, 0x2a, 0x2e, 0x41, 0x42, 0x5f, 0x89,
                               0x8a, 0x8b, 0x8e, 0x93, 0xaa, 0xae};

bool among(std::span<const uint8_t> codes, uint8_t code) {
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::array<uint8_t, kScsiCdbBytes> cdb{};
  std::copy_n(data, std::min(size, cdb.size()), cdb.begin());
  const uint8_t code = cdb[0];
  const CdbVerdict verdict = judge_cdb(cdb, false);
  const CdbVerdict reading = judge_cdb(cdb, true);
  ENSURE((verdict.what == CdbClass::kDeny) == (verdict.sense != sense::kNone));
  if (verdict.what == CdbClass::kDeny) {
    ENSURE(reading.what == CdbClass::kDeny && reading.sense == verdict.sense);
    return 0;
  }
  ENSURE(!among(kNever, code) && code < 0xc0);  // 0xc0 and up are the vendor's
  ENSURE(cdb_offered(code, cdb[1] & 0x1fU));
  const size_t length = cdb_length(code);
  ENSURE(length >= 6 && length <= 16 && cdb[length - 1] == 0);
  ENSURE(among(kWrites, code) == (reading.what == CdbClass::kDeny));
  ENSURE(!reading.changes);
  for (const uint32_t block : {512U, 4096U}) {
    const CdbTransfer transfer = transfer_of(cdb, block);
    ENSURE(transfer.direction != CdbData::kNone || transfer.bytes == 0);
    ENSURE(!transfer.of_blocks || transfer.bytes % block == 0);
    ENSURE(!verdict.changes || transfer.direction == CdbData::kOut);
    ENSURE(transfer.length_at + transfer.length_bytes < static_cast<int>(length));
  }
  return 0;
}
