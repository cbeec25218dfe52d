#include "blockdev/sim_device.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <set>

namespace plumb {
namespace {

void put(std::byte* to, int value) { std::memset(to, value, 512); }
int get(const std::byte* from) { return static_cast<int>(from[0]); }

std::set<int> outcomes(const SimDevice& device, uint32_t block) {
  std::set<int> values;
  device.visit_outcomes(block,
                        [&](const std::byte* bytes, uint64_t) { values.insert(get(bytes)); });
  return values;
}

}  // namespace

TEST_CASE("sim device: what is in the cache is read, and may be lost or kept") {
  SimDevice device({.blocks = 4});
  put(device.write_medium(1), 1);
  put(device.write_cache(1, 5), 2);
  put(device.write_cache(1, 6), 3);
  CHECK(get(device.current(1)) == 3);
  CHECK(get(device.medium(1)) == 1);
  CHECK(outcomes(device, 1) == std::set{1, 2, 3});
  std::set<int> survivors;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    SimDevice copy = device;
    SimRandom random(seed);
    copy.lose_power(random);
    CHECK(outcomes(copy, 1).size() == 1);
    survivors.insert(get(copy.current(1)));
  }
  CHECK(survivors == std::set{1, 2, 3});
}

TEST_CASE("sim device: a flush moves what is old enough, and the newest of it wins") {
  SimDevice device({.blocks = 4});
  put(device.write_cache(0, 1), 1);
  put(device.write_cache(0, 2), 2);
  put(device.write_cache(0, 9), 3);
  device.flush_all(2);
  CHECK(outcomes(device, 0) == std::set{2, 3});
  CHECK(get(device.current(0)) == 3);
  device.change_mark(0, 9, 2);
  device.flush(0, 2);
  CHECK(outcomes(device, 0) == std::set{3});
}

TEST_CASE("sim device: a write to the medium supersedes what the cache has") {
  SimDevice device({.blocks = 4});
  put(device.write_cache(0, 1), 1);
  put(device.write_medium(0), 2);
  CHECK(outcomes(device, 0) == std::set{2});
}

TEST_CASE("sim device: a full cache writes back and loses nothing") {
  SimDevice device({.blocks = 64, .cache_blocks = 8});
  for (uint32_t block = 0; block < 64; ++block) {
    put(device.write_cache(block, block), static_cast<int>(block));
  }
  for (uint32_t block = 0; block < 64; ++block) {
    CHECK(get(device.current(block)) == static_cast<int>(block));
  }
}

TEST_CASE("sim device: after a flush that failed, later ones may move nothing of what it left") {
  SimDevice device({.blocks = 64});
  for (uint32_t block = 0; block < 64; ++block) put(device.write_cache(block, 1), 7);
  SimRandom random(1);
  device.spoil(1, random);
  device.flush_all(1);
  uint32_t lost = 0;
  for (uint32_t block = 0; block < 64; ++block) lost += device.cached(block) ? 1 : 0;
  CHECK(lost > 10);
  CHECK(lost < 54);
}

TEST_CASE("sim device: what a shrink cuts off reads as zeroes when it is back") {
  SimDevice device({.blocks = 8});
  for (uint32_t block = 0; block < 8; ++block) put(device.write_medium(block), 4);
  put(device.write_cache(7, 1), 5);
  device.resize(6);
  CHECK(device.size_bytes() == 6 * 512);
  device.resize(8);
  CHECK(get(device.current(5)) == 4);
  CHECK(outcomes(device, 7) == std::set{0});
}

}  // namespace plumb
