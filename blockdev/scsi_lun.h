// ScsiLun: a logical unit as a SCSI transport (virtio-scsi) sees it. It takes command descriptor
// blocks; what executes them is an emulation over a Disk (ScsiDisk), or a real LUN.
// Source: SAM-5, chapters 4 and 5.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "blockdev/block_device.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"

namespace plumb {

inline constexpr size_t kScsiCdbBytes = 32;    // the longest that is taken
inline constexpr size_t kScsiSenseBytes = 96;  // the longest that is given

// SAM-5 5.3.1.
enum class ScsiStatus : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kConditionMet = 0x04,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
};

// SPC-4 4.5: sense key, additional sense code and its qualifier.
struct ScsiSense {
  uint8_t key = 0;
  uint8_t asc = 0;
  uint8_t ascq = 0;
  bool operator==(const ScsiSense&) const = default;
};

namespace sense {
inline constexpr ScsiSense kNone{0x00, 0x00, 0x00};
inline constexpr ScsiSense kInvalidOperation{0x05, 0x20, 0x00};
inline constexpr ScsiSense kLbaOutOfRange{0x05, 0x21, 0x00};
inline constexpr ScsiSense kInvalidFieldInCdb{0x05, 0x24, 0x00};
inline constexpr ScsiSense kLunNotSupported{0x05, 0x25, 0x00};
inline constexpr ScsiSense kInvalidParameter{0x05, 0x26, 0x00};
inline constexpr ScsiSense kParameterListLength{0x05, 0x1a, 0x00};
inline constexpr ScsiSense kSavingNotSupported{0x05, 0x39, 0x00};
inline constexpr ScsiSense kWriteProtected{0x07, 0x27, 0x00};
inline constexpr ScsiSense kSpaceAllocationFailed{0x07, 0x27, 0x07};
inline constexpr ScsiSense kReadError{0x03, 0x11, 0x00};
inline constexpr ScsiSense kWriteError{0x03, 0x0c, 0x00};
inline constexpr ScsiSense kTargetFailure{0x04, 0x44, 0x00};
inline constexpr ScsiSense kIoTerminated{0x0b, 0x00, 0x06};
inline constexpr ScsiSense kMiscompare{0x0e, 0x1d, 0x00};
inline constexpr ScsiSense kPowerOn{0x06, 0x29, 0x00};
inline constexpr ScsiSense kDeviceReset{0x06, 0x29, 0x03};
inline constexpr ScsiSense kCapacityChanged{0x06, 0x2a, 0x09};
}  // namespace sense

class ScsiLun;

// What a logical unit keeps of a command in several steps.
struct ScsiWork {
  virtual ~ScsiWork() = default;
};

// A command. The submitter owns it; it and its buffers stay until done().
struct ScsiCommand {
  using Done = void (*)(ScsiCommand&);

  std::array<uint8_t, kScsiCdbBytes> cdb{};
  std::span<iovec> data_out;  // from the initiator; changed by the layers below
  std::span<iovec> data_in;   // to the initiator; changed by the layers below

  // Set before done().
  ScsiStatus status = ScsiStatus::kGood;
  uint64_t moved_bytes = 0;  // of data, in or out
  bool overrun = false;      // the buffers are smaller than what the CDB asks to move; none was
  std::array<uint8_t, kScsiSenseBytes> sense{};
  size_t sense_bytes = 0;

  Done done = nullptr;

  // Kept by the logical unit.
  struct Block : BlockRequest {
    ScsiCommand* command = nullptr;
  };
  ScsiLun* lun = nullptr;
  Block block;
  IoOp later;
  std::unique_ptr<ScsiWork> work;
  ScsiCommand* next = nullptr;
};

class ScsiLun {
 public:
  virtual ~ScsiLun() = default;

  virtual IoThread& thread() = 0;

  // --- Only on thread() ---

  // Takes `command`; its done() follows once, later, from the loop.
  virtual void execute(ScsiCommand& command) = 0;
  // Takes back a command that is not at the medium now: true, and its done() is not called. False
  // when it is: then it ends soon, with an error whatever the disk's policy.
  virtual bool withdraw(ScsiCommand& command) = 0;
  // LOGICAL UNIT RESET, when no command is here any more: forgets what initiators have set.
  virtual void reset() = 0;
  // Called when something has changed that the initiator is to be told of: 2A/09, capacity data.
  // The next command gets it as a unit attention anyhow. One front end.
  virtual void on_change(std::function<void(ScsiSense)> changed) = 0;
};

}  // namespace plumb
