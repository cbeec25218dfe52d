#include "rdm/cdb_policy.h"

#include <algorithm>

namespace plumb {
namespace {

constexpr uint8_t kAnyAction = 0xff;
constexpr uint8_t kServiceActionBits = 0x1f;

// What a command moves. The field counts bytes, or blocks.
enum class Amount : uint8_t {
  kNothing,
  kFixed,      // eight bytes: READ CAPACITY(10)
  kBytes,      // allocation or parameter list length
  kBlocks,     // 0 is none
  kBlocks256,  // 0 is 256: six-byte commands
  kTwoBlocks,  // the blocks twice: COMPARE AND WRITE
  kOneBlock,   // WRITE SAME(10)
  kOneOrNone,  // WRITE SAME(16): none with NDOB
  kCompared,   // VERIFY: what BYTCHK says
};

// What it does beyond answering.
enum class Effect : uint8_t { kNone, kChanges, kChangesOnce, kReserves };

struct Field {
  uint8_t at = 0;
  uint8_t bytes = 0;
};

// Bits of byte 1 that are refused: what they ask for is denied although the command is not.
constexpr uint8_t kProtection = 0xe0;  // protection information beside the data; none here has room
constexpr uint8_t kSave = 0x01;        // LOG SENSE: parameters of the LUN, for all its initiators

struct Rule {
  uint8_t code;
  uint8_t action;  // kAnyAction where byte 1 has none
  CdbClass what;
  Effect effect = Effect::kNone;
  CdbData direction = CdbData::kNone;
  Amount amount = Amount::kNothing;
  Field field{};
  uint8_t refused = 0;
};

using enum CdbClass;
using enum Effect;
constexpr auto kNo = Effect::kNone;
constexpr auto kIn = CdbData::kIn;
constexpr auto kOut = CdbData::kOut;
constexpr auto kNothing = Amount::kNothing;
constexpr auto kBytes = Amount::kBytes;
constexpr auto kBlocks = Amount::kBlocks;

// In the order of their codes. docs/rdm.md lists them, and has why others are not here.
constexpr Rule kRules[] = {
    // TEST UNIT READY, REQUEST SENSE
    {0x00, kAnyAction, kPass},
    {0x03, kAnyAction, kEmulate},
    // READ(6), WRITE(6)
    {0x08, kAnyAction, kEngine, kNo, kIn, Amount::kBlocks256, {4, 1}},
    {0x0a, kAnyAction, kEngine, kChanges, kOut, Amount::kBlocks256, {4, 1}},
    // INQUIRY, MODE SENSE(6), START STOP UNIT, SEND DIAGNOSTIC, PREVENT ALLOW MEDIUM REMOVAL
    {0x12, kAnyAction, kPass, kNo, kIn, kBytes, {3, 2}},
    {0x1a, kAnyAction, kPass, kNo, kIn, kBytes, {4, 1}},
    {0x1b, kAnyAction, kEmulate},
    {0x1d, kAnyAction, kEmulate},
    {0x1e, kAnyAction, kEmulate},
    // READ CAPACITY(10), READ(10), WRITE(10), WRITE AND VERIFY(10), VERIFY(10)
    {0x25, kAnyAction, kPass, kNo, kIn, Amount::kFixed},
    {0x28, kAnyAction, kEngine, kNo, kIn, kBlocks, {7, 2}, kProtection},
    {0x2a, kAnyAction, kEngine, kChanges, kOut, kBlocks, {7, 2}, kProtection},
    {0x2e, kAnyAction, kPass, kChanges, kOut, kBlocks, {7, 2}, kProtection},
    {0x2f, kAnyAction, kPass, kNo, kOut, Amount::kCompared, {7, 2}, kProtection},
    // PRE-FETCH(10), SYNCHRONIZE CACHE(10), READ DEFECT DATA(10)
    {0x34, kAnyAction, kPass},
    {0x35, kAnyAction, kEngine},
    {0x37, kAnyAction, kPass, kNo, kIn, kBytes, {7, 2}},
    // WRITE SAME(10), UNMAP
    {0x41, kAnyAction, kPass, kChanges, kOut, Amount::kOneBlock, {}, kProtection},
    {0x42, kAnyAction, kPass, kChanges, kOut, kBytes, {7, 2}},
    // LOG SENSE, MODE SENSE(10), PERSISTENT RESERVE IN and OUT
    {0x4d, kAnyAction, kPass, kNo, kIn, kBytes, {7, 2}, kSave},
    {0x5a, kAnyAction, kPass, kNo, kIn, kBytes, {7, 2}},
    {0x5e, kAnyAction, kReservation},
    {0x5f, kAnyAction, kReservation, kReserves},
    // READ(16), COMPARE AND WRITE, WRITE(16), ORWRITE(16), WRITE AND VERIFY(16), VERIFY(16)
    {0x88, kAnyAction, kEngine, kNo, kIn, kBlocks, {10, 4}, kProtection},
    {0x89, kAnyAction, kPass, kChangesOnce, kOut, Amount::kTwoBlocks, {13, 1}, kProtection},
    {0x8a, kAnyAction, kEngine, kChanges, kOut, kBlocks, {10, 4}, kProtection},
    {0x8b, kAnyAction, kPass, kChanges, kOut, kBlocks, {10, 4}, kProtection},
    {0x8e, kAnyAction, kPass, kChanges, kOut, kBlocks, {10, 4}, kProtection},
    {0x8f, kAnyAction, kPass, kNo, kOut, Amount::kCompared, {10, 4}, kProtection},
    // PRE-FETCH(16), SYNCHRONIZE CACHE(16), WRITE SAME(16)
    {0x90, kAnyAction, kPass},
    {0x91, kAnyAction, kEngine},
    {0x93, kAnyAction, kPass, kChanges, kOut, Amount::kOneOrNone, {}, kProtection},
    // READ CAPACITY(16), GET LBA STATUS
    {0x9e, 0x10, kPass, kNo, kIn, kBytes, {10, 4}},
    {0x9e, 0x12, kPass, kNo, kIn, kBytes, {10, 4}},
    // REPORT LUNS; REPORT TARGET PORT GROUPS, REPORT SUPPORTED OPERATION CODES
    {0xa0, kAnyAction, kEmulate},
    {0xa3, 0x0a, kPass, kNo, kIn, kBytes, {6, 4}},
    {0xa3, 0x0c, kPass, kNo, kIn, kBytes, {6, 4}},
    // READ(12), WRITE(12), WRITE AND VERIFY(12), VERIFY(12), READ DEFECT DATA(12)
    {0xa8, kAnyAction, kEngine, kNo, kIn, kBlocks, {6, 4}, kProtection},
    {0xaa, kAnyAction, kEngine, kChanges, kOut, kBlocks, {6, 4}, kProtection},
    {0xae, kAnyAction, kPass, kChanges, kOut, kBlocks, {6, 4}, kProtection},
    {0xaf, kAnyAction, kPass, kNo, kOut, Amount::kCompared, {6, 4}, kProtection},
    {0xb7, kAnyAction, kPass, kNo, kIn, kBytes, {6, 4}},
};

const Rule* find_rule(uint8_t code, uint16_t action) {
  const auto* found = std::find_if(std::begin(kRules), std::end(kRules), [&](const Rule& rule) {
    return rule.code == code && (rule.action == kAnyAction || rule.action == action);
  });
  return found == std::end(kRules) ? nullptr : found;
}

const Rule* find_rule(std::span<const uint8_t, kScsiCdbBytes> cdb) {
  return find_rule(cdb[0], cdb[1] & kServiceActionBits);
}

CdbVerdict deny(const ScsiSense& sense) { return {.what = kDeny, .sense = sense}; }

uint64_t field_of(std::span<const uint8_t> cdb, Field field) {
  uint64_t value = 0;
  for (size_t i = 0; i < field.bytes; ++i) value = value << 8U | cdb[field.at + i];
  return value;
}

}  // namespace

CdbVerdict judge_cdb(std::span<const uint8_t, kScsiCdbBytes> cdb, bool read_only) {
  const Rule* rule = find_rule(cdb);
  if (rule == nullptr) {
    return deny(cdb_has_service_actions(cdb[0]) ? sense::kInvalidFieldInCdb
                                                : sense::kInvalidOperation);
  }
  // The control byte: NACA would stop the LUN for all that the host sends; the rest is obsolete or
  // the vendor's.
  const bool control = cdb[cdb_length(rule->code) - 1] != 0;
  if (control || (cdb[1] & rule->refused) != 0) return deny(sense::kInvalidFieldInCdb);
  if (read_only && rule->effect != kNo) return deny(sense::kWriteProtected);
  return {.what = rule->what,
          .changes = rule->effect == kChanges || rule->effect == kChangesOnce,
          .repeatable = rule->effect == kNo || rule->effect == kChanges};
}

bool cdb_offered(uint8_t code, uint16_t service_action) {
  return find_rule(code, service_action) != nullptr;
}

bool cdb_has_service_actions(uint8_t code) {
  return std::any_of(std::begin(kRules), std::end(kRules), [code](const Rule& rule) {
    return rule.code == code && rule.action != kAnyAction;
  });
}

CdbTransfer transfer_of(std::span<const uint8_t, kScsiCdbBytes> cdb, uint32_t block_size) {
  const Rule* rule = find_rule(cdb);
  if (rule == nullptr || rule->amount == kNothing) return {};
  const uint64_t count = field_of(cdb, rule->field);
  CdbTransfer transfer{.direction = rule->direction, .of_blocks = true};
  switch (rule->amount) {
    case Amount::kNothing:
      break;
    case Amount::kFixed:
      transfer.bytes = 8;
      transfer.of_blocks = false;
      break;
    case Amount::kBytes:
      transfer.bytes = count;
      transfer.of_blocks = false;
      transfer.length_at = rule->field.at;
      transfer.length_bytes = rule->field.bytes;
      break;
    case Amount::kBlocks:
      transfer.bytes = count * block_size;
      break;
    case Amount::kBlocks256:
      transfer.bytes = (count == 0 ? 256 : count) * block_size;
      break;
    case Amount::kTwoBlocks:
      transfer.bytes = 2 * count * block_size;
      break;
    case Amount::kOneBlock:
      transfer.bytes = block_size;
      break;
    case Amount::kOneOrNone:
      transfer.bytes = (cdb[1] & 0x01U) != 0 ? 0 : block_size;
      break;
    case Amount::kCompared: {
      // SBC-3 5.33: 01b all the blocks, 11b one for each of them.
      const unsigned bytchk = cdb[1] >> 1U & 3U;
      if (bytchk == 1) transfer.bytes = count * block_size;
      if (bytchk == 3) transfer.bytes = block_size;
      break;
    }
  }
  return transfer;
}

size_t cdb_length(uint8_t code) {
  constexpr size_t kLengths[8] = {6, 10, 10, 0, 16, 12, 0, 0};
  return kLengths[code >> 5U];
}

void set_cdb_field(std::span<uint8_t> cdb, uint8_t at, uint8_t bytes, uint64_t value) {
  for (size_t i = bytes; i-- > 0; value >>= 8U) cdb[at + i] = static_cast<uint8_t>(value);
}

}  // namespace plumb
