#include "snapshot/arrays/extended_copy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "base/endian.h"

namespace plumb {
namespace {

constexpr uint8_t kExtendedCopy = 0x83;
constexpr uint8_t kReceiveCopyResults = 0x84;
constexpr uint8_t kOperatingParameters = 3;  // service action
constexpr uint8_t kIdentification = 0xe4;    // CSCD descriptor, SPC-4 6.4.5.2
constexpr uint8_t kBlockToBlock = 0x02;      // segment descriptor, SPC-4 6.4.6.3
constexpr uint8_t kNaa = 3;
constexpr uint8_t kEui64 = 2;
constexpr uint8_t kBinary = 1;  // code set
constexpr size_t kHeaderBytes = 16;
constexpr size_t kLunBytes = 32;
constexpr size_t kSegmentBytes = 28;
constexpr size_t kParameterBytes = 512;
constexpr unsigned kTimeoutMs = 120'000;  // of a segment
constexpr uint8_t kUnitAttention = 6;
constexpr int kTries = 5;  // after unit attentions, of which there may be several, or BUSY

void put_lun(uint8_t* at, const CopyLun& lun) {
  at[0] = kIdentification;  // byte 1: a disk
  at[4] = kBinary;
  at[5] = lun.designator_type;
  at[7] = static_cast<uint8_t>(lun.designator.size());
  std::ranges::copy(lun.designator, at + 8);
  store_be<uint32_t>(at + 28, lun.block_bytes & 0xffffffU);
}

// Sends until it is answered with something else than that the LUN was reset, or is busy.
Result<> send(ScsiTransport& manager, LunCommand& command, const char* what) {
  for (int tries = 1;; ++tries) {
    if (const int error = manager.send(command); error != 0) {
      return os_error(error, "{} cannot be sent", what);
    }
    const ScsiSense code = code_of({command.sense.data(), command.sense_bytes});
    const bool checked = command.status == ScsiStatus::kCheckCondition;
    if (command.status == ScsiStatus::kGood) return {};
    const bool passes =
        (checked && code.key == kUnitAttention) || command.status == ScsiStatus::kBusy;
    if (passes && tries < kTries) continue;
    if (checked) {
      return failed("the LUN refuses {}: sense {:x}/{:02x}/{:02x}", what, code.key, code.asc,
                    code.ascq);
    }
    return failed("the LUN refuses {}: SCSI status {:#x}", what,
                  static_cast<unsigned>(command.status));
  }
}

}  // namespace

Result<CopyLun> copy_lun(const LunId& id, uint32_t block_bytes) {
  const std::string_view text = id.text();
  const bool naa = text.starts_with("naa.");
  CopyLun lun{naa ? kNaa : kEui64, {}, block_bytes};
  for (size_t at = 4; (naa || text.starts_with("eui.")) && at + 2 <= text.size(); at += 2) {
    uint8_t byte = 0;
    std::from_chars(text.data() + at, text.data() + at + 2, byte, 16);
    lun.designator.push_back(byte);
  }
  if (!lun.designator.empty()) return lun;
  return failed("LUN {} cannot be copied by EXTENDED COPY, which knows LUNs by naa. and eui. names",
                text);
}

Result<CopyLimits> parse_operating_parameters(std::span<const uint8_t> answer) {
  // The first field counts what comes after it; the list of descriptor types begins at 44.
  if (answer.size() < 44 || load_be<uint32_t>(answer.data()) < 40) {
    return failed("the LUN does not tell the limits of its copies");
  }
  const size_t listed = std::min<size_t>(answer[43], answer.size() - 44);
  const auto types = answer.subspan(44, listed);
  const auto knows = [types](uint8_t type) {
    return std::ranges::find(types, type) != types.end();
  };
  if (!knows(kBlockToBlock)) return failed("the LUN copies no blocks from disk to disk");
  if (!knows(kIdentification)) return failed("the LUN does not find others by their identity");
  return CopyLimits{load_be<uint32_t>(answer.data() + 16)};
}

std::vector<uint8_t> copy_parameters(const CopyLun& from, const CopyLun& to, uint64_t first_block,
                                     uint16_t blocks) {
  std::vector<uint8_t> list(kHeaderBytes + 2 * kLunBytes + kSegmentBytes);
  // A list identifier, 1, whose results are not held: byte 1, LIST ID USAGE 10b.
  list[0] = 1;
  list[1] = 0x10;
  store_be<uint16_t>(&list[2], 2 * kLunBytes);
  store_be<uint32_t>(&list[8], kSegmentBytes);
  put_lun(&list[kHeaderBytes], from);
  put_lun(&list[kHeaderBytes + kLunBytes], to);
  uint8_t* segment = &list[kHeaderBytes + 2 * kLunBytes];
  segment[0] = kBlockToBlock;
  store_be<uint16_t>(segment + 2, kSegmentBytes - 4);
  store_be<uint16_t>(segment + 6, 1);  // from the LUN 0 of the list to the LUN 1
  store_be<uint16_t>(segment + 10, blocks);
  store_be<uint64_t>(segment + 12, first_block);
  store_be<uint64_t>(segment + 20, first_block);
  return list;
}

Result<CopyLimits> ExtendedCopy::limits_of(ScsiTransport& manager) {
  std::array<uint8_t, 16> cdb{kReceiveCopyResults, kOperatingParameters};
  store_be<uint32_t>(&cdb[10], kParameterBytes);
  std::array<std::byte, kParameterBytes> answer{};
  LunCommand command{
      .cdb = cdb, .direction = CdbData::kIn, .data = answer, .timeout_ms = kTimeoutMs};
  TRY(send(manager, command, "RECEIVE COPY OPERATING PARAMETERS"));
  return parse_operating_parameters(
      {reinterpret_cast<const uint8_t*>(answer.data()), command.moved_bytes});
}

Result<> ExtendedCopy::copy_segment(uint64_t first_block, uint16_t blocks) {
  std::vector<uint8_t> list = copy_parameters(from_, to_, first_block, blocks);
  std::array<uint8_t, 16> cdb{kExtendedCopy};
  store_be<uint32_t>(&cdb[10], static_cast<uint32_t>(list.size()));
  LunCommand command{.cdb = cdb,
                     .direction = CdbData::kOut,
                     .data = std::as_writable_bytes(std::span(list)),
                     .timeout_ms = kTimeoutMs};
  Result<> sent = send(manager_, command, "EXTENDED COPY");
  if (sent) return sent;
  return failed("{}, at block {}", sent.error().message, first_block);
}

Result<> ExtendedCopy::copy(uint64_t blocks, const CopyLimits& limits) {
  uint64_t most = UINT16_MAX;
  if (limits.segment_bytes != 0) most = std::min(most, limits.segment_bytes / from_.block_bytes);
  if (most == 0) return failed("the LUN copies less than a block at a time");
  for (uint64_t done = 0; done < blocks;) {
    const auto now = static_cast<uint16_t>(std::min(blocks - done, most));
    TRY(copy_segment(done, now));
    done += now;
  }
  return {};
}

}  // namespace plumb
