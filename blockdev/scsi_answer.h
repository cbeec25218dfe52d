// What logical units of every kind do with a command: how it begins and ends, what is answered from
// memory, and their unit attentions. Only on the logical unit's thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "blockdev/scsi_cdb.h"
#include "blockdev/scsi_lun.h"

namespace plumb {

// A command as it came: no status, nothing moved.
void begin_command(ScsiCommand& command, ScsiLun& lun);

// CHECK CONDITION; nothing was moved.
void set_sense(ScsiCommand& command, const ScsiSense& sense);
// The status and sense for the errno with which the medium, or the way to it, has failed.
void set_error(ScsiCommand& command, int error);
// Copies to the initiator what it has room for, at most `most` bytes.
void give_data(ScsiCommand& command, std::span<const uint8_t> data, uint64_t most);

// Makes command.block the request of a READ or WRITE. False when the command ends without one: it
// has no blocks, or its buffers are too small (overrun is set).
bool prepare_transfer(ScsiCommand& command, const ScsiOperation& operation, uint32_t block_size);

// Unit attention conditions (SAM-5 5.14) that are not yet told. Each is told once.
class ScsiAttentions {
 public:
  // From now on a unit that has just been powered on, or reset.
  void restart(const ScsiSense& why) { waiting_ = {why}; }
  void add(const ScsiSense& told);
  // Ends the command with one, if any waits and the command is not one of those that are there to
  // find out what is there: INQUIRY, REPORT LUNS, REQUEST SENSE.
  bool report(ScsiCommand& command);
  // The first, which is then told; sense::kNone without any.
  ScsiSense take();

 private:
  std::vector<ScsiSense> waiting_{sense::kPowerOn};
};

}  // namespace plumb
