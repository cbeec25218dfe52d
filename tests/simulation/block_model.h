// BlockModel: what a guest that knows the virtio specification may expect of a disk's blocks.
//
// Each block has candidates: what was written, or is being written. Time is a counter of events. A
// write that ended well supersedes what had ended before it was issued: no read that is issued
// later may find that again. It does so for good, crashes included, once it is durable. A write
// that failed, or is in flight, may have happened or not, block by block. So may a discard.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/simulation/block_values.h"

namespace plumb::simulation {

class BlockModel {
 public:
  static constexpr uint64_t kNever = UINT64_MAX;

  // What the blocks hold is not known before set().
  explicit BlockModel(uint32_t blocks) : blocks_(blocks) {}

  uint32_t blocks() const { return static_cast<uint32_t>(blocks_.size()); }

  // Request `number` begins to change the block to `value`; `surely` not for a discard, which a
  // device may ignore.
  void begin(uint32_t block, BlockValue value, uint64_t number, uint64_t now, bool surely);
  // It ended, for the guest. `oldest_read`: when the oldest read in flight was issued.
  struct Ending {
    uint64_t number = 0;
    uint64_t now = 0;
    bool ok = false;
    bool durable = false;
    uint64_t oldest_read = kNever;
  };
  void end(uint32_t block, const Ending& ending);
  // A flush issued at `issued` ended well.
  void flushed(uint64_t issued);

  // The block holds just this, durably: after a crash, when it has been seen.
  void set(uint32_t block, BlockValue value);

  // Whether a read that was issued at `issued`, and ends now, may find `value`.
  bool may_read(uint32_t block, BlockValue value, uint64_t issued) const;
  // Whether the device may hold it now.
  bool may_hold(uint32_t block, BlockValue value) const {
    return may_read(block, value, kNever - 1);
  }
  // What a crash now may leave; may_survive() of each is true.
  std::vector<BlockValue> survivors(uint32_t block) const;
  // Whether a crash now may leave it.
  bool may_survive(uint32_t block, BlockValue value) const;

  // The values that the last two allow, for people.
  std::string expected(uint32_t block, bool after_crash) const;

 private:
  struct Candidate {
    BlockValue value = kZeroes;
    uint64_t number = 0;
    uint64_t issued = 0;
    uint64_t ended = kNever;
    uint64_t superseded = kNever;  // when a read issued later may not find it any more
    bool surely = false;           // ended well, and the block has changed
    bool durable = false;
    bool gone = false;  // no crash may bring it back
  };
  using Candidates = std::vector<Candidate>;

  static void make_durable(Candidates& candidates, Candidate& durable);

  std::vector<Candidates> blocks_;
};

}  // namespace plumb::simulation
