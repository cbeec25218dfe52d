// How a SCSI command ended: its status, and sense data. Sources: SAM-5 5.3.1, SPC-4 4.5.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace plumb {

// SAM-5 5.3.1.
enum class ScsiStatus : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kBusy = 0x08,
  kReservationConflict = 0x18,
};

// SPC-4 4.5: sense key, additional sense code and its qualifier.
struct ScsiSense {
  uint8_t key = 0;
  uint8_t asc = 0;
  uint8_t ascq = 0;
  bool operator==(const ScsiSense&) const = default;
};

inline constexpr uint8_t kUnitAttention = 0x06;  // a sense key

namespace sense {
inline constexpr ScsiSense kNone{0x00, 0x00, 0x00};
inline constexpr ScsiSense kInvalidOperation{0x05, 0x20, 0x00};
inline constexpr ScsiSense kLbaOutOfRange{0x05, 0x21, 0x00};
inline constexpr ScsiSense kInvalidFieldInCdb{0x05, 0x24, 0x00};
inline constexpr ScsiSense kInvalidParameter{0x05, 0x26, 0x00};
inline constexpr ScsiSense kInvalidRelease{0x05, 0x26, 0x04};
inline constexpr ScsiSense kParameterListLength{0x05, 0x1a, 0x00};
inline constexpr ScsiSense kSavingNotSupported{0x05, 0x39, 0x00};
inline constexpr ScsiSense kWriteProtected{0x07, 0x27, 0x00};
inline constexpr ScsiSense kSpaceAllocationFailed{0x07, 0x27, 0x07};
inline constexpr ScsiSense kReadError{0x03, 0x11, 0x00};
inline constexpr ScsiSense kWriteError{0x03, 0x0c, 0x00};
inline constexpr ScsiSense kTargetFailure{0x04, 0x44, 0x00};
inline constexpr ScsiSense kIoTerminated{0x0b, 0x00, 0x06};
inline constexpr ScsiSense kCommunicationFailure{0x0b, 0x08, 0x00};
inline constexpr ScsiSense kCommunicationTimeout{0x0b, 0x08, 0x01};
inline constexpr ScsiSense kMiscompare{0x0e, 0x1d, 0x00};
inline constexpr ScsiSense kPowerOn{0x06, 0x29, 0x00};
inline constexpr ScsiSense kDeviceReset{0x06, 0x29, 0x03};
inline constexpr ScsiSense kCapacityChanged{0x06, 0x2a, 0x09};
}  // namespace sense

inline constexpr size_t kFixedSenseBytes = 18;
// Current error in the fixed format (SPC-4 4.5.3), no field pointer.
constexpr std::array<std::byte, kFixedSenseBytes> fixed_sense(const ScsiSense& code) {
  std::array<std::byte, kFixedSenseBytes> bytes{};
  bytes[0] = std::byte{0x70};
  bytes[2] = std::byte{code.key};
  bytes[7] = std::byte{kFixedSenseBytes - 8};  // bytes that follow
  bytes[12] = std::byte{code.asc};
  bytes[13] = std::byte{code.ascq};
  return bytes;
}

}  // namespace plumb
