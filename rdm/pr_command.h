// PERSISTENT RESERVE IN and OUT as a guest sends them (SPC-4 6.15, 6.16), brought to a struct or to
// the sense that answers them. Pure. What a device does not support is not decided here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <variant>

#include "blockdev/scsi_sense.h"

namespace plumb {

constexpr size_t kPrCdbBytes = 10;
constexpr uint8_t kPersistentReserveIn = 0x5e;
constexpr uint8_t kPersistentReserveOut = 0x5f;

enum class PrOutAction : uint8_t {
  kRegister = 0,
  kReserve = 1,
  kRelease = 2,
  kClear = 3,
  kPreempt = 4,
  kPreemptAndAbort = 5,
  kRegisterAndIgnoreExistingKey = 6,
  kRegisterAndMove = 7,
};

// "RESERVE", as SPC-4 writes it.
const char* pr_action_name(PrOutAction action);

struct PrOut {
  PrOutAction action = PrOutAction::kRegister;
  uint8_t type = 0;  // SPC-4 table 142: 1, 3, 5, 6, 7 or 8; 0 where the action has none
  uint64_t key = 0;
  uint64_t service_action_key = 0;
  // For the two REGISTER actions; ignored, and false here, for all others.
  bool aptpl = false;
  bool all_tg_pt = false;
  bool spec_i_pt = false;
};

enum class PrInAction : uint8_t {
  kReadKeys = 0,
  kReadReservation = 1,
  kReportCapabilities = 2,
  kReadFullStatus = 3,
};

struct PrIn {
  PrInAction action = PrInAction::kReadKeys;
  uint16_t allocation_bytes = 0;
};

// `parameters` is the data that came with the CDB: exactly as long as the CDB says, or it is a
// PARAMETER LIST LENGTH ERROR.
std::variant<PrOut, ScsiSense> parse_pr_out(std::span<const std::byte, kPrCdbBytes> cdb,
                                            std::span<const std::byte> parameters);
std::variant<PrIn, ScsiSense> parse_pr_in(std::span<const std::byte, kPrCdbBytes> cdb);

}  // namespace plumb
