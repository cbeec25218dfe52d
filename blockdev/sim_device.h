// SimDevice: a simulated medium with a volatile write cache in front of it, for SimEngine.
//
// Of each block it keeps the bytes on the medium and, oldest first, the versions in the cache.
// Reads see the newest. A flush moves versions to the medium; losing power leaves of each block, by
// itself, the medium's bytes or any one version: nothing that is in the cache is sure to stay or to
// go, and blocks are torn from each other but never within. It outlives the engines that use it, as
// a disk outlives the machines it is plugged into. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "blockdev/sim_random.h"

namespace plumb {

class SimDevice {
 public:
  struct Config {
    uint32_t block_size = 512;  // what is written whole or not at all, when power goes
    uint32_t blocks = 64;
    uint32_t memory_alignment = 512;  // of buffers' addresses; their lengths are whole blocks
    uint32_t cache_blocks = 512;      // versions that the cache holds; then some are written back
    bool block_device = false;        // else a file, which writes behind its end make longer
    bool can_punch = true;            // a range can be zeroed by unmapping it
    bool can_zero_range = true;       // a file's range can be zeroed
  };

  explicit SimDevice(const Config& config);

  const Config& config() const { return config_; }
  uint32_t block_size() const { return config_.block_size; }
  uint32_t blocks() const { return blocks_; }
  uint64_t size_bytes() const { return uint64_t{blocks_} * config_.block_size; }

  // Blocks that are new read as zeroes; what is cut off is gone, also from the medium. At most
  // Config::blocks.
  void resize(uint32_t blocks);

  // What a read finds; block_size() bytes.
  const std::byte* current(uint32_t block) const;
  const std::byte* medium(uint32_t block) const { return at(medium_, block); }

  // --- Writes: each returns the block_size() bytes to be filled ---

  // Straight to the medium; what the cache had of the block is superseded.
  std::byte* write_medium(uint32_t block);
  // Into the cache. `mark` tells flushes how old it is, or who still works on it.
  std::byte* write_cache(uint32_t block, uint64_t mark);

  // Gives the block's versions marked `from` the mark `to`.
  void change_mark(uint32_t block, uint64_t from, uint64_t to);

  // --- What becomes of the cache ---

  // The newest version with a mark of at most `mark` goes to the medium, and older ones go.
  void flush(uint32_t block, uint64_t mark);
  void flush_all(uint64_t mark);
  // One version somewhere goes to the medium, as caches do in their own time.
  void write_back(SimRandom& random);
  // Versions with a mark of at most `mark` become, one by one and by chance, such that no flush
  // moves them: what a flush that failed may have left behind.
  void spoil(uint64_t mark, SimRandom& random);
  // Power is lost, and with it the cache.
  void lose_power(SimRandom& random);

  // Calls `see(const std::byte*, mark)` with everything that the block may hold after a loss of
  // power: first the medium, marked 0, then the versions, oldest first.
  template <typename See>
  void visit_outcomes(uint32_t block, See see) const {
    see(medium(block), uint64_t{0});
    for (uint32_t i = chains_[block].oldest; i != kNone; i = versions_[i].newer) {
      see(at(pool_, i), versions_[i].mark);
    }
  }
  bool cached(uint32_t block) const { return chains_[block].oldest != kNone; }

  // Of what a read of everything would find.
  uint64_t hash() const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Version {
    uint64_t mark = 0;
    uint32_t block = kNone;  // kNone: free
    uint32_t newer = kNone;  // of the same block; of a free one: the next free one
  };
  struct Chain {
    uint32_t oldest = kNone;
    uint32_t newest = kNone;
  };

  std::byte* at(std::vector<std::byte>& bytes, uint32_t index) const {
    return bytes.data() + size_t{index} * config_.block_size;
  }
  const std::byte* at(const std::vector<std::byte>& bytes, uint32_t index) const {
    return bytes.data() + size_t{index} * config_.block_size;
  }
  uint32_t take_version();
  void drop_oldest(uint32_t block);
  void settle(uint32_t block, uint32_t version);

  const Config config_;
  uint32_t blocks_;
  std::vector<std::byte> medium_;
  std::vector<std::byte> pool_;  // the bytes of versions_
  std::vector<Version> versions_;
  std::vector<Chain> chains_;  // by block
  uint32_t free_ = kNone;
  uint32_t next_victim_ = 0;
};

}  // namespace plumb
