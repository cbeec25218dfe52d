#include "tests/simulation/checker.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>

namespace plumb::simulation {
namespace {

bool writes(BlockOp op) { return op != BlockOp::kRead && op != BlockOp::kFlush; }

}  // namespace

uint32_t Checker::add_disk(SimDevice& device) {
  disks_.push_back({.device = &device, .model = BlockModel(device.blocks())});
  refill(static_cast<uint32_t>(disks_.size() - 1));
  return static_cast<uint32_t>(disks_.size() - 1);
}

void Checker::refill(uint32_t disk) {
  SimDevice& device = *disks_[disk].device;
  const uint64_t number = next_number_++;
  for (uint32_t block = 0; block < device.blocks(); ++block) {
    const BlockValue value = value_for(number, disk, block);
    fill_block(device.write_medium(block), device.block_size(), value);
    disks_[disk].model.set(block, value);
  }
}

void Checker::set_engine(SimEngine* engine) {
  engine_ = engine;
  for (DiskState& disk : disks_) disk.flush_failed = BlockModel::kNever;
}

void Checker::violate(std::string invariant, uint32_t disk, std::string text) {
  if (violation_.has_value()) return;
  violation_ = Violation{std::move(invariant), counters_.steps, disk, std::move(text)};
}

// What is seen decides which rule is broken: another block's bytes (I4), nobody's (I2), or, by
// `invariant`, this block's from another time.
void Checker::violate_block(const char* invariant, const char* what, uint32_t disk, uint32_t block,
                            BlockValue seen, bool after_crash) {
  if (seen == kNoValue) {
    if (invariant[1] != '3') invariant = "I2";
  } else if (seen != kZeroes && (disk_of(seen) != disk || block_of(seen) != block)) {
    invariant = "I4";
  }
  violate(invariant, disk,
          fmt::format("{}: block {}: expected {}; seen {}", what, block,
                      disks_[disk].model.expected(block, after_crash), describe(seen)));
}

// --- The guest ---

void Checker::issued(GuestRequest& request) {
  DiskState& disk = disks_[request.disk];
  request.number = next_number_++;
  request.issued = ++now_;
  ++counters_.requests;
  if (narrated_) {
    fmt::print("{} guest: request {}: {} of blocks {}+{}, disk {}, {}\n", now_, request.number,
               name_of(request.op), request.first, request.blocks, request.disk,
               request.durable ? "durable" : "cached");
  }
  note(request.number << 8U | static_cast<uint64_t>(request.op));
  if (request.op == BlockOp::kRead) disk.reads.push_back(request.issued);
  for (uint32_t i = 0; writes(request.op) && i < request.blocks; ++i) {
    const uint32_t block = request.first + i;
    const BlockValue value =
        request.op == BlockOp::kWrite ? value_for(request.number, request.disk, block) : kZeroes;
    disk.model.begin(block, value, request.number, now_, request.op != BlockOp::kDiscard);
  }
}

void Checker::end(const GuestRequest& request, bool ok) {
  DiskState& disk = disks_[request.disk];
  ++now_;
  if (narrated_) fmt::print("{} guest: request {} ended {}\n", now_, request.number, ok);
  note(request.number << 1U | (ok ? 1 : 0));
  if (request.op == BlockOp::kRead) std::erase(disk.reads, request.issued);
  if (request.op == BlockOp::kFlush && ok) disk.model.flushed(request.issued);
  for (uint32_t i = 0; writes(request.op) && i < request.blocks; ++i) {
    disk.model.end(request.first + i,
                   {.number = request.number,
                    .now = now_,
                    .ok = ok,
                    .durable = request.durable,
                    .oldest_read = disk.reads.empty() ? BlockModel::kNever : disk.reads.front()});
  }
}

void Checker::ended(const GuestRequest& request, bool ok, const std::byte* data) {
  end(request, ok);
  if (!ok) {
    ++counters_.failed;
    return;
  }
  switch (request.op) {
    case BlockOp::kRead:
      check_read(request, data);
      return;
    case BlockOp::kFlush:
      check_crash(request.disk, 0, device(request.disk).blocks());
      return;
    default:
      check_held(request.disk, request.first, request.blocks);
      check_crash(request.disk, request.first, request.blocks);
      return;
  }
}

void Checker::lost(const GuestRequest& request) { end(request, false); }

void Checker::was_reset(uint32_t disk) {
  disks_[disk].active = false;
  if (engine_->in_flight(disk) > 0) violate("I5", disk, "a reset ended with operations in flight");
}

void Checker::check_read(const GuestRequest& request, const std::byte* data) {
  const DiskState& disk = disks_[request.disk];
  const uint32_t bytes = disk.device->block_size();
  for (uint32_t i = 0; i < request.blocks; ++i) {
    const uint32_t block = request.first + i;
    const BlockValue seen = value_in(data + size_t{i} * bytes, bytes);
    ++counters_.reads_checked;
    note(seen);
    if (!disk.model.may_read(block, seen, request.issued)) {
      violate_block("I3", "read", request.disk, block, seen, false);
    }
  }
}

// --- The backend ---

void Checker::stepped(const SimStep& step) {
  ++counters_.steps;
  ++now_;
  note(static_cast<uint64_t>(step.what) << 60U | static_cast<uint64_t>(step.op->kind) << 56U |
       step.op->offset << 8U | step.device);
  if (step.what == SimStep::What::kCompleted) note(static_cast<uint64_t>(step.op->result));
  if (narrated_) narrate(step);
  if (step.device < disks_.size()) check_disk(step);
  if (other_ != nullptr) other_->stepped(step);
}

void Checker::check_disk(const SimStep& step) {
  check_step(step);
  switch (step.op->kind) {
    case IoOpKind::kRead:
      return;
    case IoOpKind::kSync: {
      if (step.what != SimStep::What::kCompleted) return;
      const int64_t error = -step.op->result;
      if (error > 0 && error != EINTR && error != EAGAIN) {
        disks_[step.device].flush_failed = std::min(disks_[step.device].flush_failed, now_);
      }
      check_crash(step.device, 0, device(step.device).blocks());
      return;
    }
    default:
      check_crash(step.device, step.first_block, step.blocks);
      return;
  }
}

void Checker::narrate(const SimStep& step) const {
  constexpr const char* kWhat[] = {"submitted", "stirred", "completed"};
  constexpr const char* kKinds[] = {"read", "write", "sync", "fallocate", "discard", "zero-out"};
  fmt::print("{} disk {}: {} {}{} of blocks {}+{}, result {}, at step {}\n", now_, step.device,
             kKinds[static_cast<size_t>(step.op->kind)], kWhat[static_cast<size_t>(step.what)],
             step.op->kind == IoOpKind::kWrite && step.op->dsync ? " durable" : "",
             step.first_block, step.blocks,
             step.what == SimStep::What::kCompleted ? step.op->result : 0, counters_.steps);
}

void Checker::check_step(const SimStep& step) {
  const IoOp& op = *step.op;
  const DiskState& disk = disks_[step.device];
  if (!disk.active) violate("I5", step.device, "an operation at a device that was reset");
  if (frozen_) violate("I6", step.device, "an operation at a disk that is held");
  if (op.kind == IoOpKind::kSync || step.what != SimStep::What::kSubmitted) return;
  uint64_t bytes = op.length;
  if (op.kind == IoOpKind::kRead || op.kind == IoOpKind::kWrite) {
    bytes = 0;
    for (uint32_t i = 0; i < op.iov_count; ++i) bytes += op.iov[i].iov_len;
  }
  const uint64_t size = uint64_t{disk.model.blocks()} * disk.device->block_size();
  if (op.offset > size || bytes > size - op.offset) {
    violate("I4", step.device,
            fmt::format("{} bytes at {} are outside the disk of {}", bytes, op.offset, size));
  }
}

void Checker::check_crash(uint32_t disk, uint32_t first, uint32_t blocks) {
  const DiskState& state = disks_[disk];
  const uint32_t bytes = state.device->block_size();
  ++counters_.crash_points;
  for (uint32_t block = first; block < first + blocks; ++block) {
    engine_->visit_outcomes(disk, block, [&](const std::byte* outcome, uint64_t) {
      ++counters_.outcomes;
      const BlockValue value = value_in(outcome, bytes);
      if (!state.model.may_survive(block, value)) {
        // A flush that hides that one before it has failed breaks a rule of its own.
        const bool hidden = state.flush_failed != BlockModel::kNever;
        violate_block(hidden ? "I7" : "I1", "after a crash now", disk, block, value, true);
      }
    });
  }
  if (at_crash_point_) at_crash_point_(disk);
}

void Checker::check_held(uint32_t disk, uint32_t first, uint32_t blocks) {
  const DiskState& state = disks_[disk];
  const uint32_t end = std::min(first + blocks, state.device->blocks());
  for (uint32_t block = first; block < end; ++block) {
    const BlockValue value = value_in(state.device->current(block), state.device->block_size());
    if (!state.model.may_hold(block, value)) {
      violate_block("I3", "the device holds", disk, block, value, false);
    }
  }
}

void Checker::check_all() {
  for (uint32_t disk = 0; disk < disks_.size(); ++disk) {
    check_held(disk, 0, device(disk).blocks());
  }
}

// --- Holds, sizes, crashes ---

void Checker::frozen() {
  check_all();
  for (uint32_t disk = 0; disk < disks_.size(); ++disk) {
    if (engine_->in_flight(disk) > 0) {
      violate("I6", disk, "a hold was drained with operations in flight");
    }
    disks_[disk].frozen_hash = device(disk).hash();
  }
  frozen_ = true;
}

void Checker::thawed() {
  if (!std::exchange(frozen_, false)) return;
  for (uint32_t disk = 0; disk < disks_.size(); ++disk) {
    if (device(disk).hash() != disks_[disk].frozen_hash) {
      violate("I6", disk, "a held disk has changed");
    }
  }
}

void Checker::resized(uint32_t disk, uint32_t first) {
  DiskState& state = disks_[disk];
  const uint64_t number = next_number_++;
  ++now_;
  for (uint32_t block = first; block < state.model.blocks(); ++block) {
    // As a discard that may have come at any moment.
    state.model.begin(block, kZeroes, number, now_, false);
    state.model.end(block, {.number = number, .now = now_, .ok = true});
  }
}

void Checker::crashed(uint32_t disk) {
  frozen_ = false;
  disks_[disk].active = false;
  disks_[disk].reads.clear();
}

void Checker::survived(uint32_t disk, uint32_t block, const std::byte* bytes) {
  DiskState& state = disks_[disk];
  const BlockValue value = value_in(bytes, state.device->block_size());
  note(value);
  if (!state.model.may_survive(block, value)) {
    violate_block("I1", "after a crash", disk, block, value, true);
  }
  state.model.set(block, value);
}

}  // namespace plumb::simulation
