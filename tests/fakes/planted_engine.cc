#include "tests/fakes/planted_engine.h"

#include <cstring>

#include "base/aligned_memory.h"
#include "base/check.h"
#include "base/iovecs.h"

namespace plumb {
namespace {

bool is_range(IoOpKind kind) {
  return kind == IoOpKind::kFallocate || kind == IoOpKind::kBlkDiscard ||
         kind == IoOpKind::kBlkZeroOut;
}

}  // namespace

std::optional<PlantedBug> planted_bug(std::string_view name) {
  for (const auto& [known, bug] : kPlantedBugs) {
    if (known == name) return bug;
  }
  return std::nullopt;
}

// A write of its own: the submitter's buffers are the guest's again once it was told "done".
struct PlantedEngine::HeldWrite {
  IoOp op;
  iovec iov{};
  AlignedMemory data;

  explicit HeldWrite(const IoOp& from) {
    iov.iov_len = total_bytes({from.iov, from.iov_count});
    data = aligned_memory(iov.iov_len);
    ENSURE(data != nullptr);
    iov.iov_base = data.get();
    copy_from({from.iov, from.iov_count}, {data.get(), iov.iov_len});
    op.kind = from.kind;
    op.dsync = from.dsync;
    op.file = from.file;
    op.offset = from.offset;
    op.iov = &iov;
    op.iov_count = 1;
    op.owner = this;
    op.done = ended;
  }
  // Nobody waits for it, and nobody learns that it failed.
  static void ended(IoOp& op) { delete static_cast<HeldWrite*>(op.owner); }
};

PlantedEngine::PlantedEngine(std::unique_ptr<IoEngine> below, PlantedBug bug)
    : below_(std::move(below)), bug_(bug) {}

PlantedEngine::~PlantedEngine() = default;

void PlantedEngine::submit(IoOp& op) {
  switch (bug_) {
    case PlantedBug::kNone:
      break;
    case PlantedBug::kNoDsync:
      op.dsync = false;
      break;
    case PlantedBug::kEarlyCompletion:
      if (op.kind == IoOpKind::kWrite) return complete_early(op);
      break;
    case PlantedBug::kDroppedFlush:
      if (op.kind == IoOpKind::kSync) return complete(op, 0);
      break;
    case PlantedBug::kZeroWithoutFlush:
      if (is_range(op.kind)) range_begun_ = true;
      if (op.kind == IoOpKind::kSync && std::exchange(range_begun_, false)) return complete(op, 0);
      break;
  }
  below_->submit(op);
}

void PlantedEngine::wait(int64_t until_ns, IoEvents& events) {
  wait_below(events_.completed.empty() && events_.ready.empty() ? until_ns : kNoWait);
  events.completed.push_all(events_.completed);
  events.ready.insert(events.ready.end(), events_.ready.begin(), events_.ready.end());
  events_.ready.clear();
}

// Keeps what came for the submitters, and ends the held writes among it.
void PlantedEngine::wait_below(int64_t until_ns) {
  below_->wait(until_ns, events_);
  IoOpList theirs;
  while (IoOp* op = events_.completed.pop()) {
    if (op->done == HeldWrite::ended) {
      --sent_late_;
      op->done(*op);
    } else {
      theirs.push(*op);
    }
  }
  events_.completed = theirs;
}

// For calls that want no operation in flight, also none that nobody waits for.
void PlantedEngine::await_late_writes() {
  while (sent_late_ > 0) wait_below(kForever);
}

void PlantedEngine::remove_file(IoFile file) {
  await_late_writes();
  below_->remove_file(file);
}

void PlantedEngine::remove_memory() {
  await_late_writes();
  below_->remove_memory();
}

void PlantedEngine::complete(IoOp& op, int64_t result) {
  op.result = result;
  events_.completed.push(op);
}

void PlantedEngine::complete_early(IoOp& op) {
  held_.push_back(std::make_unique<HeldWrite>(op));
  complete(op, static_cast<int64_t>(held_.back()->iov.iov_len));
  if (held_.size() <= kWritesHeldBack) return;
  HeldWrite* oldest = held_.front().release();
  held_.pop_front();
  ++sent_late_;
  below_->submit(oldest->op);
}

}  // namespace plumb
