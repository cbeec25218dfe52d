// Checker: watches what a guest asks and is told, and what happens at the simulated devices, and
// knows what must hold between the two:
//
//   I1  a write that was acknowledged as durable survives every crash, and a flush makes what it
//       covers so
//   I2  a block holds one of the values written to it, whole; never anything else
//   I3  a read finds what was acknowledged last, or what was written at the same time
//   I4  nothing happens outside the disk, and nothing meant for another block or disk
//   I5  after a reset nothing reaches the device, and no memory of the guest changes
//   I6  while several disks are held together, nothing on them changes: a copy of all is one moment
//   I7  no error is swallowed: a flush that failed stays failed, an answer is a whole answer
//   I8  each chain of the guest comes back, once
//   I9  a snapshot reads as of its instant, now and after every crash (cow_checker.h)
//
// After each step of a backend that can change what a crash would leave, every outcome of a crash
// at that moment is compared with the model, block by block, and the run goes on: a crash point.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "blockdev/block_device.h"
#include "blockdev/sim_engine.h"
#include "tests/simulation/block_model.h"

namespace plumb::simulation {

struct Violation {
  std::string invariant;  // "I1"
  uint64_t step = 0;
  uint32_t disk = 0;
  std::string text;  // what was expected, and seen
};

// A request as the guest issued it.
struct GuestRequest {
  BlockOp op = BlockOp::kRead;
  uint64_t number = 0;
  uint64_t issued = 0;
  uint32_t disk = 0;
  uint32_t first = 0;  // block
  uint32_t blocks = 0;
  bool durable = false;  // completed well, it is on the medium
};

class Checker final : public SimObserver {
 public:
  struct Counters {
    uint64_t steps = 0;         // of backends
    uint64_t crash_points = 0;  // moments at which all outcomes of a crash were checked
    uint64_t outcomes = 0;      // blocks' contents compared for that
    uint64_t requests = 0;
    uint64_t reads_checked = 0;  // blocks
    uint64_t failed = 0;         // requests that the guest was told have failed
  };

  // The device's blocks are filled with values of their own, which the model knows. Returns the
  // disk's number.
  uint32_t add_disk(SimDevice& device);
  // Fills them anew; nothing may be in flight.
  void refill(uint32_t disk);
  // The disk is now as another checker's was, when its machine crashed.
  void adopt(uint32_t disk, const Checker& other) { disks_[disk].model = other.disks_[disk].model; }
  SimDevice& device(uint32_t disk) { return *disks_[disk].device; }
  size_t disks() const { return disks_.size(); }
  // The engine of this life of the machine; nullptr between lives.
  void set_engine(SimEngine* engine);
  // Called at each crash point, for what else a test wants to do there.
  void at_crash_points(std::function<void(uint32_t disk)> call) {
    at_crash_point_ = std::move(call);
  }

  // Told of every step, too, also at devices that are no disk's.
  void also_tell(SimObserver* observer) { other_ = observer; }

  // --- What the guest does and sees ---

  // Sets number and issued.
  void issued(GuestRequest& request);
  // `data`: what a read that ended well brought.
  void ended(const GuestRequest& request, bool ok, const std::byte* data);
  // It will not be answered: the device was reset.
  void lost(const GuestRequest& request);
  // The driver was told that the device works, or that it has stopped.
  void activated(uint32_t disk) { disks_[disk].active = true; }
  void was_reset(uint32_t disk);

  // --- What else happens ---

  // All disks are drained by a hold, until thawed().
  void frozen();
  void thawed();
  bool is_frozen() const { return frozen_; }
  // The device lost and perhaps got back the blocks from `first` on.
  void resized(uint32_t disk, uint32_t first);
  // After a crash: no request is in flight any more.
  void crashed(uint32_t disk);
  // What is found after it, read by the guest: `bytes` of `block`.
  void survived(uint32_t disk, uint32_t block, const std::byte* bytes);
  // Everything that the devices hold is what the model allows.
  void check_all();
  bool may_survive(uint32_t disk, uint32_t block, BlockValue value) const {
    return disks_[disk].model.may_survive(block, value);
  }

  // The disk's model, as it is after a flush of all that has ended.
  BlockModel flushed_model(uint32_t disk) {
    BlockModel model = disks_[disk].model;
    model.flushed(++now_);
    return model;
  }

  void violate(std::string invariant, uint32_t disk, std::string text);
  const std::optional<Violation>& violation() const { return violation_; }
  const Counters& counters() const { return counters_; }
  // Of all that happened, in order.
  uint64_t trace() const { return trace_; }
  // Prints everything that happens.
  void narrate() { narrated_ = true; }
  void note(uint64_t word) { trace_ = (trace_ ^ word) * 0x100000001b3ULL + (trace_ >> 47U); }
  uint64_t now() const { return now_; }

  void stepped(const SimStep& step) override;

 private:
  struct DiskState {
    SimDevice* device;
    BlockModel model;
    bool active = false;
    uint64_t flush_failed = BlockModel::kNever;  // when, in this life
    uint64_t frozen_hash = 0;
    std::vector<uint64_t> reads;  // in flight: when issued, the oldest first
  };

  void check_step(const SimStep& step);
  void check_disk(const SimStep& step);
  void check_read(const GuestRequest& request, const std::byte* data);
  void check_crash(uint32_t disk, uint32_t first, uint32_t blocks);
  void check_held(uint32_t disk, uint32_t first, uint32_t blocks);
  void end(const GuestRequest& request, bool ok);
  void narrate(const SimStep& step) const;
  void violate_block(const char* invariant, const char* what, uint32_t disk, uint32_t block,
                     BlockValue seen, bool after_crash);

  std::vector<DiskState> disks_;
  SimEngine* engine_ = nullptr;
  std::function<void(uint32_t disk)> at_crash_point_;
  SimObserver* other_ = nullptr;
  std::optional<Violation> violation_;  // the first
  Counters counters_;
  bool frozen_ = false;
  bool narrated_ = false;
  uint64_t now_ = 1;
  uint64_t next_number_ = 1;
  uint64_t trace_ = 0xcbf29ce484222325ULL;
};

}  // namespace plumb::simulation
