#include "tests/simulation/block_values.h"

#include <fmt/core.h>

#include <cstring>

namespace plumb::simulation {
namespace {

constexpr uint64_t kStep = 0x9e3779b97f4a7c15ULL;  // from word to word of a block

}  // namespace

void fill_block(std::byte* block, uint32_t bytes, BlockValue value) {
  if (value == kZeroes) {
    std::memset(block, 0, bytes);
    return;
  }
  uint64_t word = value;
  for (uint32_t i = 0; i < bytes; i += sizeof(word), word += kStep) {
    std::memcpy(block + i, &word, sizeof(word));
  }
}

BlockValue value_in(const std::byte* block, uint32_t bytes) {
  BlockValue value = 0;
  std::memcpy(&value, block, sizeof(value));
  const uint64_t step = value == kZeroes ? 0 : kStep;
  uint64_t different = 0;
  uint64_t expected = value;
  for (uint32_t i = 0; i < bytes; i += sizeof(value), expected += step) {
    uint64_t word = 0;
    std::memcpy(&word, block + i, sizeof(word));
    different |= word ^ expected;
  }
  return different == 0 ? value : kNoValue;
}

std::string describe(BlockValue value) {
  if (value == kZeroes) return "zeroes";
  if (value == kNoValue) return "no whole value";
  return fmt::format("write {} for block {} of disk {}", write_of(value), block_of(value),
                     disk_of(value));
}

}  // namespace plumb::simulation
