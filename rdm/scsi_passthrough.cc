#include "rdm/scsi_passthrough.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/aligned_memory.h"
#include "base/iovecs.h"
#include "blockdev/limits.h"
#include "blockdev/scsi_pages.h"

namespace plumb {
namespace {

// Linux gives up on its own commands after 30 s; those over many blocks (VERIFY, WRITE SAME, UNMAP)
// may rightly take longer, and giving up on one aborts it, at worst by a reset that others feel.
constexpr unsigned kCommandTimeoutMs = 30000;
constexpr unsigned kMediumTimeoutMs = 120000;

void take_answer(const LunCommand& answer, ScsiCommand& command) {
  command.status = answer.status;
  command.sense_bytes = answer.sense_bytes;
  std::copy_n(answer.sense.begin(), answer.sense_bytes, command.sense.begin());
}

// The LUN's whole cache. A unit attention stops the flush, and not the command that went before: so
// it goes again, and the last such attention is returned, for the guest's next command.
int flush(ScsiTransport& transport, LunCommand& command, ScsiSense& attention) {
  static constexpr uint8_t kSynchronizeCache[10] = {0x35};
  constexpr int kTries = 16;
  int error = 0;
  for (int i = 0; i < kTries; ++i) {
    command = {.cdb = kSynchronizeCache, .timeout_ms = kMediumTimeoutMs};
    error = transport.send(command);
    const ScsiSense told = code_of(std::span(command.sense).first(command.sense_bytes));
    if (error != 0 || told.key != kUnitAttention) break;
    attention = told;
  }
  return error;
}

BlockOp op_of(uint8_t code) { return code == 0x42 ? BlockOp::kDiscard : BlockOp::kWrite; }

}  // namespace

// A command on its way to the LUN. Worker threads have it between submit() and passed().
struct ScsiPassthrough::Passing : ScsiWork, WorkerThreads::Job {
  ScsiPassthrough* lun = nullptr;
  ScsiCommand* command = nullptr;
  std::array<uint8_t, kScsiCdbBytes> cdb{};
  CdbTransfer transfer;
  size_t bytes = 0;      // of the buffer
  bool changes = false;  // it is a request of the disk
  bool repeatable = true;
  int error = 0;        // of the way to the LUN
  ScsiSense attention;  // met by what was sent beside the command
};

ScsiPassthrough::ScsiPassthrough(Disk& disk, ScsiTransport& transport, WorkerThreads& workers,
                                 Config config)
    : disk_(disk),
      transport_(transport),
      workers_(workers),
      config_(config),
      view_{.max_transfer_blocks =
                static_cast<uint32_t>(config.max_transfer_bytes / disk.info().logical_block_size),
            .read_only = disk.info().read_only},
      flushes_(disk.info().volatile_cache && disk.config().cache == CacheMode::kWritethrough) {
  ENSURE(view_.max_transfer_blocks > 0);
  disk_.thread().run([this] {
    disk_.on_resize([this] {
      attentions_.add(sense::kCapacityChanged);
      if (changed_) changed_(sense::kCapacityChanged);
    });
  });
}

ScsiPassthrough::~ScsiPassthrough() {
  disk_.thread().run([this] { disk_.on_resize({}); });
  ENSURE(running_ == 0);
}

ScsiGeometry ScsiPassthrough::geometry() const {
  const BlockInfo& info = disk_.info();
  return {
      .blocks = info.size_bytes / info.logical_block_size,
      .block_size = info.logical_block_size,
      .max_transfer_blocks = static_cast<uint32_t>(kScsiMaxTransferBytes / info.logical_block_size),
      .read_only = info.read_only};
}

void ScsiPassthrough::execute(ScsiCommand& command) {
  begin_command(command, *this);
  ++running_;
  if (attentions_.report(command)) return end(command);
  const CdbVerdict verdict = judge_cdb(command.cdb, view_.read_only);
  switch (verdict.what) {
    case CdbClass::kEngine:
      return use_engine(command, verdict);
    case CdbClass::kPass:
      return pass(command, verdict);
    case CdbClass::kEmulate:
      return emulate(command);
    case CdbClass::kReservation:
      return reserve(command);
    case CdbClass::kDeny:
      break;
  }
  fail(command, verdict.sense);
}

// What the Disk does as the LUN would: it is well-formed, lies on the medium as the host sees it,
// and is no read that must come from the medium (FUA).
bool ScsiPassthrough::is_plain(const ScsiCommand& command, ScsiOperation& operation) const {
  constexpr uint8_t kDpoFua = 0x18;
  if (parse_cdb(command.cdb, geometry(), operation) != sense::kNone) return false;
  if (operation.action == ScsiAction::kSynchronize) return true;
  if (operation.blocks == 0) return false;
  const bool hinted = cdb_length(command.cdb[0]) > 6 && (command.cdb[1] & kDpoFua) != 0;
  if (hinted && !config_.fua) return false;  // it is for the LUN to refuse
  return !(operation.action == ScsiAction::kRead && operation.fua);
}

void ScsiPassthrough::use_engine(ScsiCommand& command, const CdbVerdict& verdict) {
  ScsiOperation operation;
  if (!is_plain(command, operation)) return pass(command, verdict);
  const bool flush = operation.action == ScsiAction::kSynchronize;
  if (flush) {
    command.block.op = BlockOp::kFlush;
    command.block.offset = 0;
    command.block.length = 0;
  } else if (!prepare_transfer(command, operation, disk_.info().logical_block_size)) {
    return end(command);
  }
  command.block.command = &command;
  command.block.done = block_done;
  disk_.submit(command.block);
}

void ScsiPassthrough::emulate(ScsiCommand& command) {
  ScsiOperation operation;
  std::vector<uint8_t> data;
  ScsiSense refused = parse_cdb(command.cdb, geometry(), operation);
  if (refused == sense::kNone && operation.action == ScsiAction::kReportLuns) {
    refused = report_luns(operation, data);
  }
  if (refused != sense::kNone) return fail(command, refused);
  if (operation.action == ScsiAction::kRequestSense) {
    data = request_sense(operation, attentions_.take());
  }
  // What is left succeeds, and does nothing: START STOP UNIT, PREVENT ALLOW, SEND DIAGNOSTIC.
  if (!data.empty()) give_data(command, data, operation.parameter_bytes);
  end(command);
}

void ScsiPassthrough::reserve(ScsiCommand& command) {
  if (config_.reservations == nullptr) return fail(command, sense::kInvalidOperation);
  config_.reservations->execute(
      command, [](ScsiCommand& ended) { static_cast<ScsiPassthrough*>(ended.lun)->end(ended); });
}

// The buffer is never smaller than what the LUN may move: it would be an error of the host's
// adapter, whose handling others feel.
void ScsiPassthrough::pass(ScsiCommand& command, const CdbVerdict& verdict) {
  auto passing = std::make_unique<Passing>();
  passing->lun = this;
  passing->command = &command;
  passing->cdb = command.cdb;
  passing->transfer = transfer_of(command.cdb, disk_.info().logical_block_size);
  passing->changes = verdict.changes;
  passing->repeatable = verdict.repeatable;
  const CdbTransfer& transfer = passing->transfer;
  const bool out = transfer.direction == CdbData::kOut;
  const uint64_t most = config_.max_transfer_bytes;
  const uint64_t room = total_bytes(out ? command.data_out : command.data_in);
  const bool exact = out || transfer.of_blocks;
  if (exact && transfer.bytes > most) return fail(command, sense::kInvalidFieldInCdb);
  if (exact && transfer.bytes > room) {
    command.overrun = true;
    return end(command);
  }
  uint64_t wanted = transfer.bytes;
  if (reports_operation_codes(command.cdb)) wanted = kOperationCodesBytes;
  wanted = std::min(wanted, most);
  if (transfer.length_bytes > 0 && wanted != transfer.bytes) {
    set_cdb_field(passing->cdb, transfer.length_at, transfer.length_bytes, wanted);
  }
  if (transfer.direction != CdbData::kNone) passing->bytes = std::max(wanted, std::min(room, most));
  passing->run = [](WorkerThreads::Job& job) { carry_out(static_cast<Passing&>(job)); };
  Passing& job = *passing;
  command.work = std::move(passing);
  if (verdict.changes) return pass_change(command, verdict);
  command.block.op = BlockOp::kRead;
  workers_.submit(job);
}

// Through the disk, which sends it elsewhere when changes may go, and again when an error stopped
// it.
void ScsiPassthrough::pass_change(ScsiCommand& command, const CdbVerdict& verdict) {
  BlockRequest& block = command.block;
  block.op = op_of(command.cdb[0]);
  block.offset = 0;
  block.length = static_cast<Passing&>(*command.work).bytes;
  // Of COMPARE AND WRITE nobody could tell whether the second try met what the first has written.
  block.unwanted = !verdict.repeatable;
  block.elsewhere = [](BlockRequest& request) {
    auto& passing = static_cast<Passing&>(*static_cast<ScsiCommand::Block&>(request).command->work);
    passing.lun->workers_.submit(passing);
  };
  command.block.command = &command;
  command.block.done = block_done;
  disk_.submit(command.block);
}

// On a worker thread.
void ScsiPassthrough::carry_out(Passing& passing) {
  ScsiCommand& command = *passing.command;
  ScsiPassthrough& lun = *passing.lun;
  const AlignedMemory buffer = aligned_memory(std::max<size_t>(passing.bytes, 1));
  passing.error = buffer == nullptr ? ENOMEM : 0;
  if (buffer != nullptr) {
    const bool medium = passing.changes || passing.transfer.of_blocks;
    LunCommand sent{.cdb = std::span(passing.cdb).first(cdb_length(passing.cdb[0])),
                    .direction = passing.transfer.direction,
                    .data = {buffer.get(), passing.bytes},
                    .timeout_ms = medium ? kMediumTimeoutMs : kCommandTimeoutMs};
    // Never what was in this memory before.
    std::memset(buffer.get(), 0, passing.bytes);
    if (sent.direction == CdbData::kOut) copy_from(command.data_out, sent.data);
    passing.error = lun.transport_.send(sent);
    take_answer(sent, command);
    const bool good = passing.error == 0 && sent.status == ScsiStatus::kGood;
    size_t moved = sent.moved_bytes;
    if (sent.direction == CdbData::kIn) {
      auto* answer = reinterpret_cast<uint8_t*>(buffer.get());
      if (good) moved = adjust_answer(command.cdb, {answer, moved}, lun.view_);
      // Not more than the guest has asked for, where the LUN was asked for more.
      if (!passing.transfer.of_blocks) moved = std::min<size_t>(moved, passing.transfer.bytes);
      moved = copy_to(command.data_in, {buffer.get(), moved});
    }
    command.moved_bytes = moved;
    if (good && passing.changes && lun.flushes_) {
      LunCommand flushed;
      passing.error = flush(lun.transport_, flushed, passing.attention);
      take_answer(flushed, command);
    }
  }
  lun.disk_.thread().post([&lun, &command] { lun.passed(command); });
}

void ScsiPassthrough::passed(ScsiCommand& command) {
  Passing& passing = static_cast<Passing&>(*command.work);
  if (passing.attention != sense::kNone) {
    attentions_.add(std::exchange(passing.attention, sense::kNone));
  }
  // The kernel does not let this process send the command: for the guest there is none.
  if (passing.error == EPERM) {
    passing.error = 0;
    set_sense(command, sense::kInvalidOperation);
  }
  if (passing.changes) {
    command.block.error = passing.error;
    return command.block.done(command.block);
  }
  if (passing.error != 0) set_error(command, passing.error);
  end(command);
}

void ScsiPassthrough::block_done(BlockRequest& request) {
  ScsiCommand& command = *static_cast<ScsiCommand::Block&>(request).command;
  if (request.error != 0) set_error(command, request.error);
  static_cast<ScsiPassthrough*>(command.lun)->end(command);
}

void ScsiPassthrough::fail(ScsiCommand& command, const ScsiSense& sense) {
  set_sense(command, sense);
  end(command);
}

// done() comes in the next turn: never inside execute().
void ScsiPassthrough::end(ScsiCommand& command) {
  command.later.owner = &command;
  command.later.done = [](IoOp& op) {
    auto& ended = *static_cast<ScsiCommand*>(op.owner);
    --static_cast<ScsiPassthrough*>(ended.lun)->running_;
    ended.work.reset();
    ended.done(ended);
  };
  disk_.thread().defer(command.later);
}

bool ScsiPassthrough::withdraw(ScsiCommand& command) {
  auto* passing = dynamic_cast<Passing*>(command.work.get());
  const bool taken = disk_.withdraw(command.block) ||
                     (passing != nullptr && !passing->changes && workers_.withdraw(*passing));
  if (!taken) {
    command.block.unwanted = true;
    return false;
  }
  command.work.reset();
  --running_;
  return true;
}

}  // namespace plumb
