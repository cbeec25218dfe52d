#include "tests/simulation/block_model.h"

#include <array>
#include <catch2/catch.hpp>

namespace plumb::simulation {
namespace {

constexpr BlockValue kOld = 11;
constexpr BlockValue kNew = 22;
constexpr BlockValue kOther = 33;

BlockModel model_with_old() {
  BlockModel model(1);
  model.set(0, kOld);
  return model;
}

}  // namespace

TEST_CASE("block values: a block tells its value, and whether it is whole") {
  std::array<std::byte, 512> block{};
  CHECK(value_in(block.data(), block.size()) == kZeroes);
  const BlockValue value = value_for(7, 1, 42);
  fill_block(block.data(), block.size(), value);
  CHECK(value_in(block.data(), block.size()) == value);
  CHECK(write_of(value) == 7);
  CHECK(disk_of(value) == 1);
  CHECK(block_of(value) == 42);
  block[300] ^= std::byte{1};
  CHECK(value_in(block.data(), block.size()) == kNoValue);
}

TEST_CASE("block model: a write in flight may or may not have happened") {
  BlockModel model = model_with_old();
  model.begin(0, kNew, 1, 10, true);
  for (const BlockValue value : {kOld, kNew}) {
    CHECK(model.may_read(0, value, 11));
    CHECK(model.may_survive(0, value));
  }
  CHECK(!model.may_read(0, kOther, 11));
  CHECK(!model.may_survive(0, kOther));
}

TEST_CASE("block model: what was acknowledged is read; a crash may undo it until it is durable") {
  BlockModel model = model_with_old();
  model.begin(0, kNew, 1, 10, true);
  model.end(0, {.number = 1, .now = 20, .ok = true, .oldest_read = 15});
  CHECK(model.may_read(0, kNew, 21));
  CHECK(!model.may_read(0, kOld, 21));
  CHECK(model.may_read(0, kOld, 15));  // a read that was issued before
  CHECK(model.may_survive(0, kOld));
  model.flushed(20);  // issued before the write had ended
  CHECK(model.may_survive(0, kOld));
  model.flushed(21);
  CHECK(!model.may_survive(0, kOld));
  CHECK(model.may_survive(0, kNew));
}

TEST_CASE("block model: a durable write is safe at once") {
  BlockModel model = model_with_old();
  model.begin(0, kNew, 1, 10, true);
  model.end(0, {.number = 1, .now = 20, .ok = true, .durable = true});
  CHECK(!model.may_survive(0, kOld));
  CHECK(model.expected(0, true).find("zeroes") == std::string::npos);
}

TEST_CASE("block model: writes at the same time leave either") {
  BlockModel model = model_with_old();
  model.begin(0, kNew, 1, 10, true);
  model.begin(0, kOther, 2, 11, true);
  model.end(0, {.number = 1, .now = 20, .ok = true, .durable = true});
  model.end(0, {.number = 2, .now = 21, .ok = true, .durable = true});
  for (const BlockValue value : {kNew, kOther}) {
    CHECK(model.may_read(0, value, 30));
    CHECK(model.may_survive(0, value));
  }
  CHECK(!model.may_read(0, kOld, 30));
}

TEST_CASE("block model: a failed write, and a discard, decide nothing") {
  for (const bool discard : {false, true}) {
    BlockModel model = model_with_old();
    model.begin(0, kNew, 1, 10, !discard);
    model.end(0, {.number = 1, .now = 20, .ok = discard, .durable = true});
    CHECK(model.may_read(0, kOld, 21));
    CHECK(model.may_read(0, kNew, 21));
    // The next write does.
    model.begin(0, kOther, 2, 30, true);
    model.end(0, {.number = 2, .now = 40, .ok = true, .durable = true});
    CHECK(!model.may_survive(0, kNew));
    CHECK(!model.may_read(0, kOld, 41));
  }
}

}  // namespace plumb::simulation
