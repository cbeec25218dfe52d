#include "rdm/lun_answers.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "rdm/cdb_policy.h"

namespace plumb {
namespace {

// All in answers that may be cut: a byte that did not come is left alone.
void clear_bits(std::span<uint8_t> answer, size_t at, uint8_t bits) {
  if (at < answer.size()) answer[at] = static_cast<uint8_t>(answer[at] & ~bits);
}
void set_bits(std::span<uint8_t> answer, size_t at, uint8_t bits) {
  if (at < answer.size()) answer[at] = static_cast<uint8_t>(answer[at] | bits);
}

void adjust_inquiry(std::span<uint8_t> answer) {
  constexpr uint8_t kNormAca = 0x20;
  constexpr uint8_t kTpgsThirdPartyProtect = 0x30 | 0x08 | 0x01;
  clear_bits(answer, 3, kNormAca);
  clear_bits(answer, 5, kTpgsThirdPartyProtect);
}

// `zero_is_none`: the LUN reports no limit by 0.
void limit_field(std::span<uint8_t> answer, size_t at, uint32_t most, bool zero_is_none) {
  if (at + sizeof(uint32_t) > answer.size()) return;
  const auto value = load_be<uint32_t>(&answer[at]);
  if (value > most || (value == 0 && zero_is_none)) store_be(&answer[at], most);
}

void adjust_block_limits(std::span<uint8_t> answer, const LunView& view) {
  constexpr size_t kPageHeader = 4;
  constexpr size_t kCompareAndWrite = 5;
  constexpr size_t kMaxTransfer = 8;
  constexpr size_t kOptimalTransfer = 12;
  constexpr size_t kAtomic = 44;
  constexpr size_t kAtomicEnd = 64;
  // A longer transfer than this cannot go by SG_IO, which splits none.
  if (kCompareAndWrite < answer.size()) {
    const uint32_t most = view.max_transfer_blocks / 2;
    answer[kCompareAndWrite] =
        static_cast<uint8_t>(std::min<uint32_t>(answer[kCompareAndWrite], most));
  }
  limit_field(answer, kMaxTransfer, view.max_transfer_blocks, true);
  limit_field(answer, kOptimalTransfer, view.max_transfer_blocks, false);
  if (answer.size() <= kPageHeader) return;
  for (size_t at = kAtomic; at < std::min(kAtomicEnd, answer.size()); ++at) answer[at] = 0;
}

// SPC-4 6.35.2. What the LUN has and the policy offers stays, in its order.
size_t filter_operations(std::span<uint8_t> answer) {
  constexpr size_t kHeader = 4;
  constexpr size_t kDescriptor = 8;
  constexpr size_t kTimeouts = 12;
  constexpr uint8_t kHasTimeouts = 0x02;
  if (answer.size() < kHeader) return answer.size();
  const size_t end =
      std::min<size_t>(answer.size(), kHeader + uint64_t{load_be<uint32_t>(answer.data())});
  size_t kept = kHeader;
  for (size_t at = kHeader; at + kDescriptor <= end;) {
    const size_t size = kDescriptor + ((answer[at + 5] & kHasTimeouts) != 0 ? kTimeouts : 0);
    if (at + size > end) break;
    if (cdb_offered(answer[at], load_be<uint16_t>(&answer[at + 2]))) {
      std::memmove(&answer[kept], &answer[at], size);
      kept += size;
    }
    at += size;
  }
  store_be(answer.data(), static_cast<uint32_t>(kept - kHeader));
  return kept;
}

// SPC-4 6.35.3: one operation, asked for by byte 3 and bytes 4 and 5 of the CDB.
size_t filter_operation(std::span<const uint8_t, kScsiCdbBytes> cdb, std::span<uint8_t> answer) {
  constexpr uint8_t kNotSupported = 0x01;
  constexpr size_t kHeader = 4;
  if (answer.size() < kHeader) return answer.size();
  if (!cdb_offered(cdb[3], load_be<uint16_t>(&cdb[4]))) {
    std::fill_n(answer.begin(), kHeader, uint8_t{0});
    answer[1] = kNotSupported;
    return kHeader;
  }
  const size_t length = load_be<uint16_t>(&answer[2]);  // of the CDB, whose usage data follow
  if (length > 0) clear_bits(answer, kHeader + length - 1, 0xff);
  return answer.size();
}

}  // namespace

bool reports_operation_codes(std::span<const uint8_t, kScsiCdbBytes> cdb) {
  return cdb[0] == 0xa3 && (cdb[1] & 0x1fU) == 0x0c;
}

size_t adjust_answer(std::span<const uint8_t, kScsiCdbBytes> cdb, std::span<uint8_t> answer,
                     const LunView& view) {
  constexpr uint8_t kWriteProtected = 0x80;
  constexpr uint8_t kBlockLimits = 0xb0;
  switch (cdb[0]) {
    case 0x12:
      if ((cdb[1] & 1U) == 0) {
        adjust_inquiry(answer);
      } else if (cdb[2] == kBlockLimits) {
        adjust_block_limits(answer, view);
      }
      break;
    case 0x1a:
      if (view.read_only) set_bits(answer, 2, kWriteProtected);
      break;
    case 0x5a:
      if (view.read_only) set_bits(answer, 3, kWriteProtected);
      break;
    case 0x9e:
      if ((cdb[1] & 0x1fU) == 0x10) clear_bits(answer, 12, 0x0f);  // P_TYPE, PROT_EN
      break;
    default:
      break;
  }
  if (!reports_operation_codes(cdb)) return answer.size();
  return (cdb[2] & 0x07U) == 0 ? filter_operations(answer) : filter_operation(cdb, answer);
}

}  // namespace plumb
