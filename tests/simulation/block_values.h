// What the simulation writes: each block of each write has a value of its own, spread over all its
// bytes, so that a block read back tells which write it is from, which block it was meant for, and
// whether it is whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace plumb::simulation {

// 0: zeroes. Else: write number, disk and block.
using BlockValue = uint64_t;
inline constexpr BlockValue kZeroes = 0;
inline constexpr BlockValue kNoValue = UINT64_MAX;  // bytes that no write has made

inline constexpr uint32_t kMaxDisks = 16;
inline constexpr uint32_t kMaxBlocks = 1U << 20U;

// `write` is at least 1 and below 2^40.
inline BlockValue value_for(uint64_t write, uint32_t disk, uint32_t block) {
  return write << 24U | uint64_t{disk} << 20U | block;
}
inline uint64_t write_of(BlockValue value) { return value >> 24U; }
inline uint32_t disk_of(BlockValue value) {
  return static_cast<uint32_t>(value >> 20U) % kMaxDisks;
}
inline uint32_t block_of(BlockValue value) { return static_cast<uint32_t>(value) % kMaxBlocks; }

void fill_block(std::byte* block, uint32_t bytes, BlockValue value);
BlockValue value_in(const std::byte* block, uint32_t bytes);

// "zeroes", "write 17 for block 3 of disk 0", "no whole value".
std::string describe(BlockValue value);

}  // namespace plumb::simulation
