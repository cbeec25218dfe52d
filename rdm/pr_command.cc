#include "rdm/pr_command.h"

#include "base/endian.h"

namespace plumb {
namespace {

constexpr size_t kBasicListBytes = 24;
constexpr uint8_t kServiceActionBits = 0x1f;
constexpr uint8_t kNaca = 0x04;  // SAM-5 5.2; nothing here supports ACA
constexpr uint8_t kAptpl = 0x01;
constexpr uint8_t kAllTgPt = 0x04;
constexpr uint8_t kSpecIPt = 0x08;

uint8_t byte_at(std::span<const std::byte> bytes, size_t at) {
  return std::to_integer<uint8_t>(bytes[at]);
}

bool has_type(PrOutAction action) {
  return action == PrOutAction::kReserve || action == PrOutAction::kRelease ||
         action == PrOutAction::kPreempt || action == PrOutAction::kPreemptAndAbort;
}

bool is_register(PrOutAction action) {
  return action == PrOutAction::kRegister || action == PrOutAction::kRegisterAndIgnoreExistingKey;
}

bool is_type(uint8_t type) {
  return type == 1 || type == 3 || type == 5 || type == 6 || type == 7 || type == 8;
}

}  // namespace

const char* pr_action_name(PrOutAction action) {
  switch (action) {
    case PrOutAction::kRegister:
      return "REGISTER";
    case PrOutAction::kReserve:
      return "RESERVE";
    case PrOutAction::kRelease:
      return "RELEASE";
    case PrOutAction::kClear:
      return "CLEAR";
    case PrOutAction::kPreempt:
      return "PREEMPT";
    case PrOutAction::kPreemptAndAbort:
      return "PREEMPT AND ABORT";
    case PrOutAction::kRegisterAndIgnoreExistingKey:
      return "REGISTER AND IGNORE EXISTING KEY";
    case PrOutAction::kRegisterAndMove:
      return "REGISTER AND MOVE";
  }
  return "?";
}

std::variant<PrOut, ScsiSense> parse_pr_out(std::span<const std::byte, kPrCdbBytes> cdb,
                                            std::span<const std::byte> parameters) {
  if (byte_at(cdb, 0) != kPersistentReserveOut) return sense::kInvalidOperation;
  const uint8_t action = byte_at(cdb, 1) & kServiceActionBits;
  if (action > static_cast<uint8_t>(PrOutAction::kRegisterAndMove))
    return sense::kInvalidFieldInCdb;
  if ((byte_at(cdb, 9) & kNaca) != 0) return sense::kInvalidFieldInCdb;
  PrOut out{.action = static_cast<PrOutAction>(action)};
  if (has_type(out.action)) {
    const uint8_t scope = byte_at(cdb, 2) >> 4U;
    out.type = byte_at(cdb, 2) & 0x0fU;
    // LU_SCOPE is the only scope there is.
    if (scope != 0 || !is_type(out.type)) return sense::kInvalidFieldInCdb;
  }
  const uint32_t list_bytes = load_be<uint32_t>(cdb.data() + 5);
  if (list_bytes != parameters.size() || list_bytes < kBasicListBytes) {
    return sense::kParameterListLength;
  }
  out.key = load_be<uint64_t>(parameters.data());
  out.service_action_key = load_be<uint64_t>(parameters.data() + 8);
  if (out.action == PrOutAction::kRegisterAndMove) return out;  // the rest is laid out otherwise
  const uint8_t flags = byte_at(parameters, 20);
  if ((flags & kSpecIPt) != 0 && out.action != PrOutAction::kRegister) {
    return sense::kInvalidParameter;
  }
  if (is_register(out.action)) {
    out.aptpl = (flags & kAptpl) != 0;
    out.all_tg_pt = (flags & kAllTgPt) != 0;
    out.spec_i_pt = (flags & kSpecIPt) != 0;
  }
  // Only a list of initiator ports may follow the 24 bytes.
  if (list_bytes != kBasicListBytes && !out.spec_i_pt) return sense::kParameterListLength;
  return out;
}

std::variant<PrIn, ScsiSense> parse_pr_in(std::span<const std::byte, kPrCdbBytes> cdb) {
  if (byte_at(cdb, 0) != kPersistentReserveIn) return sense::kInvalidOperation;
  const uint8_t action = byte_at(cdb, 1) & kServiceActionBits;
  if (action > static_cast<uint8_t>(PrInAction::kReadFullStatus)) return sense::kInvalidFieldInCdb;
  if ((byte_at(cdb, 9) & kNaca) != 0) return sense::kInvalidFieldInCdb;
  return PrIn{static_cast<PrInAction>(action), load_be<uint16_t>(cdb.data() + 7)};
}

}  // namespace plumb
