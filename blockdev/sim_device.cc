#include "blockdev/sim_device.h"

#include <cstring>

#include "base/check.h"

namespace plumb {

SimDevice::SimDevice(const Config& config)
    : config_(config),
      blocks_(config.blocks),
      medium_(size_t{config.blocks} * config.block_size),
      pool_(size_t{config.cache_blocks} * config.block_size),
      versions_(config.cache_blocks),
      chains_(config.blocks) {
  ENSURE(config.block_size % sizeof(uint64_t) == 0 && config.cache_blocks > 0);
  for (uint32_t i = config.cache_blocks; i-- > 0;) {
    versions_[i].newer = free_;
    free_ = i;
  }
}

void SimDevice::resize(uint32_t blocks) {
  ENSURE(blocks <= config_.blocks);
  for (uint32_t block = blocks; block < blocks_; ++block) {
    while (cached(block)) drop_oldest(block);
    std::memset(at(medium_, block), 0, config_.block_size);
  }
  blocks_ = blocks;
}

const std::byte* SimDevice::current(uint32_t block) const {
  const uint32_t newest = chains_[block].newest;
  return newest == kNone ? at(medium_, block) : at(pool_, newest);
}

std::byte* SimDevice::write_medium(uint32_t block) {
  while (cached(block)) drop_oldest(block);
  return at(medium_, block);
}

std::byte* SimDevice::write_cache(uint32_t block, uint64_t mark) {
  const uint32_t index = take_version();
  versions_[index] = {.mark = mark, .block = block, .newer = kNone};
  Chain& chain = chains_[block];
  (chain.oldest == kNone ? chain.oldest : versions_[chain.newest].newer) = index;
  chain.newest = index;
  return at(pool_, index);
}

// A full cache writes back, in turn, to make room.
uint32_t SimDevice::take_version() {
  while (free_ == kNone) {
    const uint32_t victim = next_victim_++ % config_.cache_blocks;
    if (versions_[victim].block != kNone) settle(versions_[victim].block, victim);
  }
  const uint32_t index = free_;
  free_ = versions_[index].newer;
  return index;
}

void SimDevice::drop_oldest(uint32_t block) {
  Chain& chain = chains_[block];
  const uint32_t index = chain.oldest;
  chain.oldest = versions_[index].newer;
  if (chain.oldest == kNone) chain.newest = kNone;
  versions_[index] = {.mark = 0, .block = kNone, .newer = free_};
  free_ = index;
}

// `version` of `block` goes to the medium, and leaves the cache with those before it.
void SimDevice::settle(uint32_t block, uint32_t version) {
  std::memcpy(at(medium_, block), at(pool_, version), config_.block_size);
  uint32_t dropped = kNone;
  do {
    dropped = chains_[block].oldest;
    drop_oldest(block);
  } while (dropped != version);
}

void SimDevice::change_mark(uint32_t block, uint64_t from, uint64_t to) {
  for (uint32_t i = chains_[block].oldest; i != kNone; i = versions_[i].newer) {
    if (versions_[i].mark == from) versions_[i].mark = to;
  }
}

void SimDevice::flush(uint32_t block, uint64_t mark) {
  uint32_t last = kNone;
  for (uint32_t i = chains_[block].oldest; i != kNone; i = versions_[i].newer) {
    if (versions_[i].mark <= mark) last = i;
  }
  if (last != kNone) settle(block, last);
}

void SimDevice::flush_all(uint64_t mark) {
  for (uint32_t block = 0; block < blocks_; ++block) {
    if (cached(block)) flush(block, mark);
  }
}

void SimDevice::write_back(SimRandom& random) {
  const uint32_t index = random.below(config_.cache_blocks);
  if (versions_[index].block != kNone) settle(versions_[index].block, index);
}

void SimDevice::spoil(uint64_t mark, SimRandom& random) {
  for (Version& version : versions_) {
    if (version.block != kNone && version.mark <= mark && random.chance(32768)) {
      version.mark = UINT64_MAX;
    }
  }
}

void SimDevice::lose_power(SimRandom& random) {
  for (uint32_t block = 0; block < blocks_; ++block) {
    if (!cached(block)) continue;
    uint32_t count = 0;
    for (uint32_t i = chains_[block].oldest; i != kNone; i = versions_[i].newer) ++count;
    uint32_t kept = random.below(count + 1);
    if (kept > 0) {
      uint32_t index = chains_[block].oldest;
      while (--kept > 0) index = versions_[index].newer;
      settle(block, index);
    }
    while (cached(block)) drop_oldest(block);
  }
}

uint64_t SimDevice::hash() const {
  uint64_t sum = blocks_;
  for (uint32_t block = 0; block < blocks_; ++block) {
    const std::byte* bytes = current(block);
    for (uint32_t i = 0; i < config_.block_size; i += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, bytes + i, sizeof(word));
      sum = (sum ^ word) * 0x100000001b3ULL;
    }
  }
  return sum;
}

}  // namespace plumb
