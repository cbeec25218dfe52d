#include "blockdev/scsi_disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/aligned_memory.h"
#include "base/endian.h"
#include "base/iovecs.h"
#include "blockdev/limits.h"

namespace plumb {

namespace {

bool must_be_alone(const ScsiOperation& operation) {
  switch (operation.action) {
    case ScsiAction::kVerify:
    case ScsiAction::kWriteVerify:
    case ScsiAction::kCompareAndWrite:
      return operation.blocks > 0;
    default:
      return false;
  }
}

}  // namespace

// Of a command in several steps.
struct ScsiDisk::Steps : ScsiWork {
  ScsiOperation operation;
  AlignedMemory buffer;         // kScsiPieceBytes
  std::vector<std::byte> data;  // what was sent with the command
  uint64_t offset = 0;          // of the piece, bytes from the start of the command's extent
  uint64_t length = 0;          // of the extent
  bool written = false;         // the data are on the medium; what follows verifies them
  iovec iov{};
  std::vector<ScsiExtent> extents;  // of UNMAP, still to do
};

ScsiDisk::Steps& ScsiDisk::steps_of(ScsiCommand& command) {
  return static_cast<Steps&>(*command.work);
}

ScsiDisk::ScsiDisk(Disk& disk, ScsiIdentity identity, ScsiReservations* reservations)
    : disk_(disk), identity_(std::move(identity)), reservations_(reservations) {
  disk_.thread().run([this] { facts_ = read_facts(); });
  disk_.on_resize([this] {
    facts_ = read_facts();
    attentions_.add(sense::kCapacityChanged);
    if (changed_) changed_(sense::kCapacityChanged);
  });
}

ScsiDisk::~ScsiDisk() {
  disk_.thread().run([this] { disk_.on_resize({}); });
  ENSURE(running_ == 0 && waiting_ == nullptr);
}

ScsiDiskFacts ScsiDisk::read_facts() const {
  const BlockInfo& info = disk_.info();
  const uint32_t block = info.logical_block_size;
  ScsiDiskFacts facts;
  facts.geometry.blocks = info.size_bytes / block;
  facts.geometry.block_size = block;
  facts.geometry.max_transfer_blocks = static_cast<uint32_t>(kScsiMaxTransferBytes / block);
  facts.geometry.max_write_same_blocks =
      static_cast<uint32_t>(std::min(info.max_write_zeroes_bytes, kScsiMaxWriteSameBytes) / block);
  facts.geometry.unmaps = info.max_discard_bytes > 0;
  facts.geometry.read_only = info.read_only;
  facts.geometry.reserves = reservations_ != nullptr;
  facts.physical_block_size = info.physical_block_size;
  facts.optimal_io_size = info.optimal_io_size;
  facts.max_unmap_blocks =
      static_cast<uint32_t>(std::min(info.max_discard_bytes, kScsiMaxUnmapBytes) / block);
  facts.unmap_granularity = info.discard_granularity;
  facts.write_cache = disk_.config().cache == CacheMode::kWriteback;
  return facts;
}

void ScsiDisk::execute(ScsiCommand& command) {
  begin_command(command, *this);
  if (waiting_ == nullptr && !alone_) return dispatch(command);
  ScsiCommand** last = &waiting_;
  while (*last != nullptr) last = &(*last)->next;
  *last = &command;
}

void ScsiDisk::dispatch(ScsiCommand& command) {
  ++running_;
  ScsiOperation operation;
  if (attentions_.report(command)) return end(command);
  const ScsiSense refused = parse_cdb(command.cdb, facts_.geometry, operation);
  if (refused != sense::kNone) return fail(command, refused);
  start(command, operation);
}

void ScsiDisk::start(ScsiCommand& command, const ScsiOperation& operation) {
  // Its field for the length has one byte only: data for more blocks were cut off.
  if (operation.action == ScsiAction::kCompareAndWrite && operation.blocks == 0 &&
      total_bytes(command.data_out) > 0) {
    return fail(command, sense::kInvalidFieldInCdb);
  }
  if (must_be_alone(operation)) return take_alone(command, operation);
  switch (operation.action) {
    case ScsiAction::kRead:
    case ScsiAction::kWrite:
      return transfer(command, operation);
    case ScsiAction::kSynchronize:
      return synchronize(command);
    case ScsiAction::kUnmap:
      return unmap(command, operation);
    case ScsiAction::kWriteSame:
      return write_same(command, operation);
    case ScsiAction::kReserve:
      return reserve(command);
    default:
      return answer(command, operation);
  }
}

// What needs no medium.
void ScsiDisk::answer(ScsiCommand& command, const ScsiOperation& operation) {
  std::vector<uint8_t> data;
  uint64_t most = operation.parameter_bytes;
  ScsiSense refused = sense::kNone;
  switch (operation.action) {
    case ScsiAction::kInquiry: {
      if (!operation.vital_page) {
        if (operation.page != 0) refused = sense::kInvalidFieldInCdb;
        data = standard_inquiry(identity_);
        break;
      }
      auto page = vital_product_page(operation.page, identity_, facts_);
      if (!page) refused = sense::kInvalidFieldInCdb;
      if (page) data = std::move(*page);
      break;
    }
    case ScsiAction::kRequestSense:
      data = request_sense(operation, attentions_.take());
      break;
    case ScsiAction::kModeSense:
      refused = mode_sense(operation, facts_, data);
      break;
    case ScsiAction::kModeSelect: {
      data.resize(std::min<uint64_t>(most, total_bytes(command.data_out)));
      copy_from(command.data_out, std::as_writable_bytes(std::span(data)));
      refused =
          data.size() < most ? sense::kParameterListLength : mode_select(operation, facts_, data);
      command.moved_bytes = data.size();
      data.clear();
      break;
    }
    case ScsiAction::kReadCapacity10:
      data = read_capacity_10(facts_.geometry);
      most = data.size();
      break;
    case ScsiAction::kReadCapacity16:
      data = read_capacity_16(facts_);
      break;
    case ScsiAction::kReportLuns:
      refused = report_luns(operation, data);
      break;
    case ScsiAction::kReportOperations:
      refused = report_operations(operation, facts_.geometry, data);
      break;
    default:
      break;
  }
  if (refused != sense::kNone) return fail(command, refused);
  if (!data.empty()) give_data(command, data, most);
  end(command);
}

void ScsiDisk::transfer(ScsiCommand& command, const ScsiOperation& operation) {
  if (!prepare_transfer(command, operation, disk_.info().logical_block_size)) return end(command);
  const BlockRequest& block = command.block;
  send_block(command, block.op, block.offset, block.length);
}

void ScsiDisk::synchronize(ScsiCommand& command) { send_block(command, BlockOp::kFlush, 0, 0); }

// It may take a minute, and no other command waits for it, or with it to be alone.
void ScsiDisk::reserve(ScsiCommand& command) {
  --running_;
  reservations_->execute(command, [](ScsiCommand& ended) { ended.done(ended); });
}

void ScsiDisk::unmap(ScsiCommand& command, const ScsiOperation& operation) {
  std::vector<uint8_t> parameters(
      std::min<uint64_t>(operation.parameter_bytes, total_bytes(command.data_out)));
  copy_from(command.data_out, std::as_writable_bytes(std::span(parameters)));
  command.moved_bytes = parameters.size();
  auto work = std::make_unique<Steps>();
  const ScsiSense refused = parameters.size() < operation.parameter_bytes
                                ? sense::kParameterListLength
                                : parse_unmap(parameters, facts_, work->extents);
  if (refused != sense::kNone) return fail(command, refused);
  work->operation = operation;
  std::reverse(work->extents.begin(), work->extents.end());
  command.work = std::move(work);
  next_extent(command);
}

void ScsiDisk::next_extent(ScsiCommand& command) {
  std::vector<ScsiExtent>& extents = steps_of(command).extents;
  if (extents.empty()) return end(command);
  const ScsiExtent extent = extents.back();
  extents.pop_back();
  const uint64_t block = disk_.info().logical_block_size;
  send_block(command, BlockOp::kDiscard, extent.lba * block, extent.blocks * block);
}

void ScsiDisk::write_same(ScsiCommand& command, const ScsiOperation& operation) {
  const uint64_t block = disk_.info().logical_block_size;
  std::vector<std::byte> pattern(block);
  if (!operation.no_data) {
    if (total_bytes(command.data_out) != block) return fail(command, sense::kInvalidFieldInCdb);
    copy_from(command.data_out, pattern);
    command.moved_bytes = block;
  }
  const bool zeroes = std::all_of(pattern.begin(), pattern.end(),
                                  [](std::byte byte) { return byte == std::byte{0}; });
  if (!zeroes) return take_alone(command, operation);
  command.block.may_unmap = operation.unmap;
  send_block(command, BlockOp::kWriteZeroes, operation.lba * block, operation.blocks * block);
}

// Keeps what was sent: the guest may change its memory meanwhile, and lower layers the buffers.
void ScsiDisk::take_alone(ScsiCommand& command, const ScsiOperation& operation) {
  const uint64_t block = disk_.info().logical_block_size;
  auto work = std::make_unique<Steps>();
  work->operation = operation;
  work->length = operation.blocks * block;
  switch (operation.action) {
    case ScsiAction::kCompareAndWrite:
      work->data.resize(2 * work->length);
      break;
    case ScsiAction::kWriteVerify:
      work->data.resize(work->length);
      break;
    case ScsiAction::kWriteSame:
      work->data.resize(block);
      break;
    default:
      work->data.resize(operation.compares ? work->length : 0);
      break;
  }
  if (copy_from(command.data_out, work->data) < work->data.size()) {
    command.overrun = true;
    return end(command);
  }
  command.work = std::move(work);
  if (running_ == 1) return run_alone(command);
  // First in line: it came before all that wait.
  --running_;
  command.next = std::exchange(waiting_, &command);
}

void ScsiDisk::run_alone(ScsiCommand& command) {
  Steps& work = steps_of(command);
  alone_ = true;
  const uint64_t block = disk_.info().logical_block_size;
  command.moved_bytes = work.data.size();
  work.buffer = aligned_memory(kScsiPieceBytes);
  if (work.buffer == nullptr) return fail(command, ENOMEM);
  if (work.operation.action == ScsiAction::kWriteSame) {
    for (uint64_t at = 0; at < kScsiPieceBytes; at += block) {
      std::memcpy(work.buffer.get() + at, work.data.data(), block);
    }
  }
  next_piece(command);
}

// A piece is written, or read to be compared.
void ScsiDisk::next_piece(ScsiCommand& command) {
  Steps& work = steps_of(command);
  const uint64_t bytes = std::min<uint64_t>(work.length - work.offset, kScsiPieceBytes);
  bool write = false;
  switch (work.operation.action) {
    case ScsiAction::kWriteSame:
      write = true;
      break;
    case ScsiAction::kWriteVerify:
      write = !work.written;
      if (write) std::memcpy(work.buffer.get(), work.data.data() + work.offset, bytes);
      break;
    case ScsiAction::kCompareAndWrite:
      write = work.written;
      if (write) std::memcpy(work.buffer.get(), work.data.data() + work.length, bytes);
      break;
    default:
      break;
  }
  work.iov = {.iov_base = work.buffer.get(), .iov_len = bytes};
  command.block.iov = &work.iov;
  command.block.iov_count = 1;
  // What is verified must have left the cache.
  command.block.durable =
      write && (work.operation.fua || work.operation.action == ScsiAction::kWriteVerify);
  const uint64_t start = work.operation.lba * disk_.info().logical_block_size;
  send_block(command, write ? BlockOp::kWrite : BlockOp::kRead, start + work.offset, bytes);
}

void ScsiDisk::piece_done(ScsiCommand& command) {
  Steps& work = steps_of(command);
  const uint64_t bytes = std::min<uint64_t>(work.length - work.offset, kScsiPieceBytes);
  const bool compare_data = work.operation.action == ScsiAction::kCompareAndWrite ||
                            work.operation.action == ScsiAction::kWriteVerify ||
                            work.operation.compares;
  if (command.block.op == BlockOp::kRead && compare_data &&
      std::memcmp(work.buffer.get(), work.data.data() + work.offset, bytes) != 0) {
    return fail(command, sense::kMiscompare);
  }
  work.offset += bytes;
  if (work.offset < work.length) return next_piece(command);
  const bool turns = work.operation.action == ScsiAction::kCompareAndWrite ||
                     work.operation.action == ScsiAction::kWriteVerify;
  if (!turns || work.written) return end(command);
  // Written, now verified; or compared, now written.
  work.written = true;
  work.offset = 0;
  next_piece(command);
}

void ScsiDisk::send_block(ScsiCommand& command, BlockOp op, uint64_t offset, uint64_t length) {
  BlockRequest& block = command.block;
  block.op = op;
  block.offset = offset;
  block.length = length;
  command.block.command = &command;
  block.done = [](BlockRequest& request) {
    ScsiCommand& done = *static_cast<ScsiCommand::Block&>(request).command;
    static_cast<ScsiDisk*>(done.lun)->block_done(done);
  };
  disk_.submit(block);
}

void ScsiDisk::block_done(ScsiCommand& command) {
  if (command.block.error != 0) return fail(command, command.block.error);
  if (command.block.unwanted) return fail(command, EIO);  // no further step
  if (command.work == nullptr) return finish(command);    // a transfer: nobody is inside execute()
  if (steps_of(command).operation.action == ScsiAction::kUnmap) return next_extent(command);
  piece_done(command);
}

void ScsiDisk::fail(ScsiCommand& command, const ScsiSense& sense) {
  set_sense(command, sense);
  end(command);
}

void ScsiDisk::fail(ScsiCommand& command, int error) {
  set_error(command, error);
  end(command);
}

// In the next turn: done() must not come inside execute().
void ScsiDisk::end(ScsiCommand& command) {
  command.later.owner = &command;
  command.later.done = [](IoOp& op) {
    auto& ended = *static_cast<ScsiCommand*>(op.owner);
    static_cast<ScsiDisk*>(ended.lun)->finish(ended);
  };
  disk_.thread().defer(command.later);
}

void ScsiDisk::finish(ScsiCommand& command) {
  alone_ = false;  // if it was not alone, none is
  command.work.reset();
  --running_;
  command.done(command);
  start_next();
}

void ScsiDisk::start_next() {
  while (waiting_ != nullptr && !alone_) {
    ScsiCommand& next = *waiting_;
    // One that has its work prepared waits to be alone.
    if (next.work != nullptr && running_ > 0) return;
    waiting_ = std::exchange(next.next, nullptr);
    if (next.work == nullptr) {
      dispatch(next);
    } else {
      ++running_;
      run_alone(next);
    }
  }
}

bool ScsiDisk::withdraw(ScsiCommand& command) {
  for (ScsiCommand** at = &waiting_; *at != nullptr; at = &(*at)->next) {
    if (*at != &command) continue;
    *at = command.next;
    command.next = nullptr;
    command.work.reset();
    return true;
  }
  if (!disk_.withdraw(command.block)) {
    command.block.unwanted = true;
    return false;
  }
  command.work.reset();
  alone_ = false;
  --running_;
  start_next();
  return true;
}

void ScsiDisk::reset() { attentions_.restart(sense::kDeviceReset); }

}  // namespace plumb
