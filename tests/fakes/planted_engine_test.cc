#include "tests/fakes/planted_engine.h"

#include <catch2/catch.hpp>

#include "blockdev/file_device.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/recording_engine.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kSize = 64 * kBlock;

// A file device over an engine with a bug; `log` sees what goes down below the bug.
struct Fixture {
  explicit Fixture(PlantedBug bug) {
    IoThread::Config config;
    config.name = "io-test";
    config.decorate = [this, bug](std::unique_ptr<IoEngine> below) -> std::unique_ptr<IoEngine> {
      return std::make_unique<PlantedEngine>(
          std::make_unique<RecordingEngine>(std::move(below), log), bug);
    };
    thread = IoThread::start(std::move(config)).value();
    device =
        FileDevice::open({.fd = image.open(), .label = "image", .discard = true}, *thread).value();
    client.emplace(*device, *thread);
  }

  int write(uint64_t block, unsigned char value) {
    data.fill(value);
    return client->write(block * kBlock, data, true);
  }
  unsigned syncs() {
    unsigned count = 0;
    for (const EngineLog::Entry& entry : log.take()) count += entry.kind == IoOpKind::kSync;
    return count;
  }

  TestImage image{kSize};
  EngineLog log;
  std::unique_ptr<IoThread> thread;
  std::unique_ptr<FileDevice> device;
  std::optional<BlockClient<FileDevice>> client;
  AlignedBuffer data{kBlock};
};

}  // namespace

TEST_CASE("without a planted bug durable writes, flushes and zeroes reach the medium") {
  Fixture fixture(PlantedBug::kNone);
  CHECK(fixture.write(1, 1) == 0);
  const auto entries = fixture.log.take();
  REQUIRE(entries.size() == 1);
  CHECK(entries[0].dsync);
  CHECK(fixture.client->flush() == 0);
  CHECK(fixture.syncs() == 1);
  CHECK(fixture.client->range(BlockOp::kWriteZeroes, 0, kBlock, true) == 0);
  CHECK(fixture.syncs() == 1);
}

TEST_CASE("planted: a durable write is sent without RWF_DSYNC") {
  Fixture fixture(PlantedBug::kNoDsync);
  CHECK(fixture.write(1, 1) == 0);
  const auto entries = fixture.log.take();
  REQUIRE(entries.size() == 1);
  CHECK_FALSE(entries[0].dsync);
  CHECK(entries[0].bytes == kBlock);
}

TEST_CASE("planted: a write completes before it is sent, and is sent later as it was") {
  Fixture fixture(PlantedBug::kEarlyCompletion);
  CHECK(fixture.write(1, 1) == 0);
  CHECK(fixture.log.take().empty());
  for (unsigned i = 0; i < PlantedEngine::kWritesHeldBack; ++i) CHECK(fixture.write(2 + i, 9) == 0);
  const auto entries = fixture.log.take();
  REQUIRE(entries.size() == 1);
  CHECK(entries[0] == EngineLog::Entry{.kind = IoOpKind::kWrite,
                                       .dsync = true,
                                       .fallocate_mode = 0,
                                       .offset = kBlock,
                                       .bytes = kBlock});
  // Whichever order the kernel took them in, the block gets what the first write brought.
  do {
    CHECK(fixture.client->read(kBlock, fixture.data) == 0);
  } while (fixture.data.all(0));
  CHECK(fixture.data.all(1));
}

TEST_CASE("planted: a flush completes without being sent") {
  Fixture fixture(PlantedBug::kDroppedFlush);
  CHECK(fixture.client->flush() == 0);
  CHECK(fixture.log.take().empty());
}

TEST_CASE("planted: zeroes are sent without their flush, a flush of its own is sent") {
  Fixture fixture(PlantedBug::kZeroWithoutFlush);
  CHECK(fixture.client->range(BlockOp::kWriteZeroes, 0, kBlock, true) == 0);
  CHECK(fixture.client->range(BlockOp::kDiscard, 0, kBlock, true) == 0);
  CHECK(fixture.log.take().size() == 2);
  CHECK(fixture.write(1, 1) == 0);
  CHECK(fixture.client->flush() == 0);
  CHECK(fixture.syncs() == 1);
}

TEST_CASE("bugs are chosen by name") {
  CHECK(planted_bug("no-dsync") == PlantedBug::kNoDsync);
  CHECK(planted_bug("zero-without-flush") == PlantedBug::kZeroWithoutFlush);
  CHECK_FALSE(planted_bug("another").has_value());
}

}  // namespace plumb
