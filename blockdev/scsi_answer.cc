#include "blockdev/scsi_answer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/iovecs.h"

namespace plumb {
namespace {

ScsiSense sense_of(int error, bool write) {
  switch (error) {
    case EROFS:
      return sense::kWriteProtected;
    case ENOSPC:
      return sense::kSpaceAllocationFailed;
    case ENODATA:
      return write ? sense::kWriteError : sense::kReadError;
    case EREMOTEIO:
      return sense::kTargetFailure;
    case EINVAL:
      return sense::kInvalidFieldInCdb;
    case EOPNOTSUPP:
      return sense::kInvalidOperation;
    default:
      return sense::kIoTerminated;
  }
}

}  // namespace

void begin_command(ScsiCommand& command, ScsiLun& lun) {
  command.status = ScsiStatus::kGood;
  command.moved_bytes = 0;
  command.overrun = false;
  command.sense_bytes = 0;
  command.next = nullptr;
  command.lun = &lun;
  command.block.durable = false;
  command.block.unwanted = false;
  command.block.may_unmap = false;
  command.block.elsewhere = nullptr;
  command.block.iov_count = 0;
}

void set_sense(ScsiCommand& command, const ScsiSense& sense) {
  command.status = ScsiStatus::kCheckCondition;
  command.moved_bytes = 0;
  command.sense_bytes = kFixedSenseBytes;
  std::memcpy(command.sense.data(), fixed_sense(sense).data(), command.sense_bytes);
}

void set_error(ScsiCommand& command, int error) {
  command.moved_bytes = 0;
  if (error == EBADE) {
    command.status = ScsiStatus::kReservationConflict;
  } else if (error == ENOMEM || error == EAGAIN) {
    command.status = ScsiStatus::kBusy;
  } else {
    set_sense(command, sense_of(error, command.block.op != BlockOp::kRead));
  }
}

void give_data(ScsiCommand& command, std::span<const uint8_t> data, uint64_t most) {
  const std::span<const uint8_t> cut = data.first(std::min<uint64_t>(data.size(), most));
  command.moved_bytes = copy_to(command.data_in, std::as_bytes(cut));
}

bool prepare_transfer(ScsiCommand& command, const ScsiOperation& operation, uint32_t block_size) {
  const bool read = operation.action == ScsiAction::kRead;
  const uint64_t bytes = uint64_t{operation.blocks} * block_size;
  std::span<iovec>& parts = read ? command.data_in : command.data_out;
  command.overrun = total_bytes(parts) < bytes;
  if (command.overrun || bytes == 0) return false;
  cut_to(parts, bytes);
  command.block.op = read ? BlockOp::kRead : BlockOp::kWrite;
  command.block.offset = operation.lba * block_size;
  command.block.length = bytes;
  command.block.iov = parts.data();
  command.block.iov_count = static_cast<uint32_t>(parts.size());
  command.block.durable = operation.fua && !read;
  command.moved_bytes = bytes;
  return true;
}

void ScsiAttentions::add(const ScsiSense& told) {
  const bool known = std::find(waiting_.begin(), waiting_.end(), told) != waiting_.end();
  if (!known) waiting_.push_back(told);
}

bool ScsiAttentions::report(ScsiCommand& command) {
  const uint8_t code = command.cdb[0];
  if (waiting_.empty() || code == 0x12 || code == 0xa0 || code == 0x03) return false;
  set_sense(command, take());
  return true;
}

ScsiSense ScsiAttentions::take() {
  if (waiting_.empty()) return sense::kNone;
  const ScsiSense told = waiting_.front();
  waiting_.erase(waiting_.begin());
  return told;
}

}  // namespace plumb
