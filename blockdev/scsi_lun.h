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
#include "blockdev/scsi_sense.h"

namespace plumb {

inline constexpr size_t kScsiCdbBytes = 32;    // the longest that is taken
inline constexpr size_t kScsiSenseBytes = 96;  // the longest that is given

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
