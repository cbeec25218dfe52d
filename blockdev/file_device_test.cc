#include "blockdev/file_device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <deque>
#include <optional>

#include "blockdev/disk.h"
#include "blockdev/sim_engine.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/recording_engine.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

using Entry = EngineLog::Entry;

const auto kBothEngines = {EngineKind::kUring, EngineKind::kLibaio};

struct Fixture {
  explicit Fixture(EngineKind kind) : thread(recording_thread(kind, log)) {
    device = FileDevice::open({.fd = image.open(), .label = image.path()}, *thread).value();
    client = std::make_unique<BlockClient<BlockDevice>>(*device, *thread);
    buffer.fill_pattern(1);
  }
  uint64_t count(IoOpKind kind) {
    uint64_t found = 0;
    for (const Entry& entry : log.take()) found += entry.kind == kind ? 1 : 0;
    return found;
  }

  TestImage image{8U << 20U};
  EngineLog log;
  std::unique_ptr<IoThread> thread;
  std::unique_ptr<FileDevice> device;
  std::unique_ptr<BlockClient<BlockDevice>> client;
  AlignedBuffer buffer{4096};
};

Entry write_entry(uint64_t offset, uint64_t bytes, bool dsync) {
  return {IoOpKind::kWrite, dsync, 0, offset, bytes};
}

}  // namespace

TEST_CASE("a durable write is one operation with RWF_DSYNC and nothing more") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    REQUIRE(fixture.client->write(4096, fixture.buffer, true) == 0);
    CHECK(fixture.log.take() == std::vector{write_entry(4096, 4096, true)});
    REQUIRE(fixture.client->write(4096, fixture.buffer, false) == 0);
    CHECK(fixture.log.take() == std::vector{write_entry(4096, 4096, false)});
  }
}

TEST_CASE("a writethrough disk sends every write durable") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    fixture.client.reset();
    Disk disk({.id = "data", .serial = "", .cache = CacheMode::kWritethrough},
              std::move(fixture.device), *fixture.thread);
    BlockClient<Disk> client(disk, *fixture.thread);
    for (uint64_t i = 0; i < 16; ++i) REQUIRE(client.write(i * 4096, fixture.buffer) == 0);
    const std::vector<Entry> entries = fixture.log.take();
    REQUIRE(entries.size() == 16);
    for (const Entry& entry : entries) CHECK(entry.dsync);
  }
}

TEST_CASE("a durable range is followed by a flush, before it completes") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    for (const BlockOp op : {BlockOp::kDiscard, BlockOp::kWriteZeroes}) {
      REQUIRE(fixture.client->range(op, 0, 65536, true) == 0);
      std::vector<Entry> entries = fixture.log.take();
      REQUIRE(entries.size() == 2);
      CHECK(entries[0].kind == IoOpKind::kFallocate);
      CHECK(entries[1].kind == IoOpKind::kSync);
      REQUIRE(fixture.client->range(op, 0, 65536, false) == 0);
      CHECK(fixture.count(IoOpKind::kSync) == 0);
    }
  }
}

TEST_CASE("the flush after a durable range that fails fails the range") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    fixture.log.inject({IoOpKind::kSync, -EIO});
    CHECK(fixture.client->range(BlockOp::kWriteZeroes, 0, 4096, true) == EIO);
  }
}

TEST_CASE("errors of the medium are passed on, each as itself") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    for (const int error : {EIO, ENOSPC, ENODATA, EBADE, ENOLINK, EREMOTEIO, ENODEV}) {
      fixture.log.inject({IoOpKind::kWrite, -error});
      CHECK(fixture.client->write(0, fixture.buffer, true) == error);
      fixture.log.inject({IoOpKind::kRead, -error});
      CHECK(fixture.client->read(0, fixture.buffer) == error);
      fixture.log.inject({IoOpKind::kFallocate, -error});
      CHECK(fixture.client->range(BlockOp::kDiscard, 0, 4096, true) == error);
    }
    CHECK(fixture.client->write(0, fixture.buffer, true) == 0);
    CHECK(fixture.client->read(0, fixture.buffer) == 0);
  }
}

TEST_CASE("a failed flush stays failed") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    REQUIRE(fixture.client->write(0, fixture.buffer) == 0);
    fixture.log.inject({IoOpKind::kSync, -EIO});
    CHECK(fixture.client->flush() == EIO);
    // The kernel reports it once; we do not forget.
    CHECK(fixture.client->flush() == EIO);
    // What is durable by itself needs none of what was lost.
    CHECK(fixture.client->range(BlockOp::kDiscard, 0, 4096, true) == 0);
    CHECK(fixture.client->write(0, fixture.buffer, true) == 0);
    CHECK(fixture.client->flush() == EIO);
  }
}

TEST_CASE("a flush that fails with nothing at stake is an error like others") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    REQUIRE(fixture.client->write(0, fixture.buffer) == 0);
    REQUIRE(fixture.client->flush() == 0);
    REQUIRE(fixture.client->write(0, fixture.buffer, true) == 0);
    fixture.log.inject({IoOpKind::kSync, -EIO});
    CHECK(fixture.client->range(BlockOp::kDiscard, 0, 4096, true) == EIO);
    CHECK(fixture.client->flush() == 0);
    CHECK(fixture.client->range(BlockOp::kDiscard, 0, 4096, true) == 0);
  }
}

namespace {

// A file device over a simulated file, whose operations end in the order that `order` tells: each
// entry is an index into what is in flight.
struct SimulatedFixture {
  SimulatedFixture(std::vector<size_t> order_of_ends, std::vector<SimRule> rules,
                   uint32_t shared_flush_depth = 0) {
    order = std::move(order_of_ends);
    SimEngine::Config config;
    config.choose = [this](size_t) { return next < order.size() ? order[next++] : 0; };
    config.rules = std::move(rules);
    config.observer = &flushes;
    auto engine = std::make_unique<SimEngine>(std::move(config));
    UniqueFd fd = engine->attach(medium);
    thread = IoThread::on_caller(std::move(engine));
    FileFacts facts;
    facts.shared_flush_depth = shared_flush_depth;
    facts.info.size_bytes = medium.size_bytes();
    facts.info.max_write_zeroes_bytes = facts.info.size_bytes;
    device.emplace(FileDevice::Config{.fd = std::move(fd), .label = "simulated"}, facts, *thread);
    client.emplace(*device, *thread);
  }

  std::vector<size_t> order;
  size_t next = 0;
  SimDevice medium{SimDevice::Config()};
  struct Flushes final : SimObserver {
    void stepped(const SimStep& step) override {
      if (step.what == SimStep::What::kSubmitted && step.op->kind == IoOpKind::kSync) ++count;
    }
    int count = 0;
  };

  Flushes flushes;
  std::unique_ptr<IoThread> thread;
  std::optional<FileDevice> device;
  std::optional<BlockClient<FileDevice>> client;
  AlignedBuffer buffer{4096};
};

constexpr SimRule kFirstFlushFails{.kind = IoOpKind::kSync};

}  // namespace

TEST_CASE("a flush that fails while a write is in flight has that at stake") {
  // The write is first in flight, the flush behind it; the flush ends first, and fails.
  SimulatedFixture fixture({1, 0}, {kFirstFlushFails});
  TestRequest write;
  write.op = BlockOp::kWrite;
  write.set_parts({fixture.buffer.part(0, 4096)});
  fixture.client->submit(write);
  CHECK(fixture.client->flush() == EIO);
  fixture.thread->wait_for(write.ended);
  CHECK(write.error == 0);
  CHECK(fixture.client->flush() == EIO);
}

TEST_CASE("a range that another's failed flush may have lost is not durable") {
  // Two ranges; the first is zeroed while the flush that the second waits for is under way, and
  // that fails; the first's own succeeds.
  SimulatedFixture fixture({1, 0, 0, 0}, {kFirstFlushFails});
  TestRequest ranges[2];
  for (TestRequest& range : ranges) {
    range.op = BlockOp::kWriteZeroes;
    range.durable = true;
    range.length = 4096;
    fixture.client->submit(range);
  }
  for (TestRequest& range : ranges) {
    fixture.thread->wait_for(range.ended);
    CHECK(range.error == EIO);
  }
  // Nothing else was at stake: sent again, they go well.
  CHECK(fixture.client->range(BlockOp::kWriteZeroes, 0, 4096, true) == 0);
}

namespace {

// Durable writes of 4 KiB one behind the other, in flight at once.
struct SharedWrites {
  SharedWrites(SimulatedFixture& fixture, size_t count) : requests(count) {
    for (size_t i = 0; i < count; ++i) {
      TestRequest& write = requests[i];
      write.op = BlockOp::kWrite;
      write.durable = true;
      write.offset = 4096 * i;
      write.set_parts({fixture.buffer.part(0, 4096)});
      fixture.client->submit(write);
    }
  }
  std::vector<int> finish(SimulatedFixture& fixture) {
    std::vector<int> errors;
    for (TestRequest& write : requests) {
      fixture.thread->wait_for(write.ended);
      errors.push_back(write.error);
    }
    return errors;
  }
  std::deque<TestRequest> requests;
};

}  // namespace

TEST_CASE("durable writes share flushes, and are on the medium when they end") {
  SimulatedFixture fixture({}, {}, 1);
  fixture.buffer.fill_pattern(3);
  CHECK(SharedWrites(fixture, 3).finish(fixture) == std::vector<int>{0, 0, 0});
  // Two of three waited for the first flush, which waits for as many as are under way.
  CHECK(fixture.flushes.count == 2);
  for (uint32_t block = 0; block < 3 * 4096 / 512; ++block) {
    INFO("block " << block);
    CHECK(std::memcmp(fixture.medium.medium(block), fixture.buffer.data() + block % 8 * 512, 512) ==
          0);
  }
}

TEST_CASE("durable writes that share a flush share its error, and are whole to be sent again") {
  SimulatedFixture fixture({}, {kFirstFlushFails}, 1);
  SharedWrites writes(fixture, 3);
  // The third ended after the flush that failed had begun: it may have been reached.
  CHECK(writes.finish(fixture) == std::vector<int>{EIO, EIO, EIO});
  for (const TestRequest& write : writes.requests) {
    CHECK(write.length == 4096);
    CHECK(write.iov->iov_len == 4096);
  }
  CHECK(SharedWrites(fixture, 3).finish(fixture) == std::vector<int>{0, 0, 0});
  CHECK(fixture.client->flush() == 0);
}

TEST_CASE("one that fails or is cut short keeps none of the others from their flush") {
  const SimRule fails{.kind = IoOpKind::kWrite, .error = ENOSPC, .skip = 1};
  SimulatedFixture failing({}, {fails}, 1);
  CHECK(SharedWrites(failing, 2).finish(failing) == std::vector<int>{0, ENOSPC});
  CHECK(SharedWrites(failing, 1).finish(failing) == std::vector<int>{0});
  const SimRule cut{.kind = IoOpKind::kWrite, .fault = SimFault::kShort, .skip = 1};
  SimulatedFixture shortened({}, {cut}, 1);
  shortened.buffer.fill_pattern(4);
  CHECK(SharedWrites(shortened, 2).finish(shortened) == std::vector<int>{0, 0});
  CHECK(std::memcmp(shortened.medium.medium(15), shortened.buffer.data() + 7 * 512, 512) == 0);
}

TEST_CASE("a request that failed half-way goes on there when it is sent again") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    AlignedBuffer out(16384);
    out.fill_pattern(9);
    TestRequest request;
    request.op = BlockOp::kWrite;
    request.set_parts({out.part(0, 4096), out.part(4096, 12288)});
    fixture.log.inject({IoOpKind::kWrite, 5120, true});
    fixture.log.inject({IoOpKind::kWrite, -ENOSPC});
    REQUIRE(fixture.client->finish(request) == ENOSPC);
    CHECK(request.offset == 5120);
    CHECK(request.length == 16384 - 5120);
    TestRequest again;
    again.op = BlockOp::kWrite;
    again.offset = request.offset;
    again.set_parts({request.iov, request.iov + request.iov_count});
    CHECK(again.length == request.length);
    REQUIRE(fixture.client->finish(again) == 0);
    AlignedBuffer in(16384);
    REQUIRE(fixture.client->read(0, in) == 0);
    CHECK(in == out);
  }
}

TEST_CASE("a file that grew is used to its new end; one that shrank keeps its size, with errors") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    const auto reread = [&] {
      Result<> result;
      fixture.thread->run([&] { result = fixture.device->reread_size(); });
      return result;
    };
    const uint64_t size = 8U << 20U;
    REQUIRE(reread().ok());
    REQUIRE(::truncate(fixture.image.path().c_str(), 2 * size) == 0);
    REQUIRE(reread().ok());
    CHECK(fixture.device->info().size_bytes == 2 * size);
    CHECK(fixture.client->write(2 * size - 4096, fixture.buffer, true) == 0);

    REQUIRE(::truncate(fixture.image.path().c_str(), 2 * size + 100) == 0);
    CHECK(reread().error().message.find("which is not a multiple of its block size 512") !=
          std::string::npos);
    REQUIRE(::truncate(fixture.image.path().c_str(), size) == 0);
    CHECK(reread().error().message.find("has shrunk from 16777216 to 8388608 bytes") !=
          std::string::npos);
    CHECK(fixture.device->info().size_bytes == 2 * size);
    CHECK(fixture.client->read(size, fixture.buffer) == EIO);
    CHECK(fixture.client->read(0, fixture.buffer) == 0);
  }
}

TEST_CASE("a short transfer goes on where it ended") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    AlignedBuffer out(16384);
    AlignedBuffer in(16384);
    out.fill_pattern(5);
    const std::vector<iovec> parts{out.part(0, 4096), out.part(4096, 8192), out.part(12288, 4096)};
    fixture.log.inject({IoOpKind::kWrite, 512, true});
    fixture.log.inject({IoOpKind::kWrite, 8192 + 512, true});
    REQUIRE(fixture.client->transfer(BlockOp::kWrite, 8192, parts, true) == 0);
    const std::vector<Entry> entries = fixture.log.take();
    REQUIRE(entries.size() == 3);
    CHECK(entries[1] == write_entry(8192 + 512, 16384 - 512, true));
    CHECK(entries[2] == write_entry(8192 + 9216, 16384 - 9216, true));
    fixture.log.inject({IoOpKind::kRead, 4096, true});
    fixture.log.inject({IoOpKind::kRead, 512, true});
    REQUIRE(fixture.client->transfer(BlockOp::kRead, 8192,
                                     {in.part(0, 512), in.part(512, 16384 - 512)}) == 0);
    CHECK(in == out);
  }
}

TEST_CASE("a transfer that ends inside a block goes on at the block") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    fixture.log.inject({IoOpKind::kWrite, 1000});
    REQUIRE(fixture.client->write(0, fixture.buffer, true) == 0);
    std::vector<Entry> entries = fixture.log.take();
    REQUIRE(entries.size() == 2);
    CHECK(entries[1] == write_entry(512, 4096 - 512, true));
  }
}

TEST_CASE("a transfer of nothing is an error, not an endless loop") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    fixture.log.inject({IoOpKind::kRead, 0});
    CHECK(fixture.client->read(0, fixture.buffer) == EIO);
    fixture.log.inject({IoOpKind::kWrite, 0});
    CHECK(fixture.client->write(0, fixture.buffer) == EIO);
  }
}

TEST_CASE("EINTR and EAGAIN are tried again, but not for ever") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    for (const IoOpKind op : {IoOpKind::kWrite, IoOpKind::kSync, IoOpKind::kFallocate}) {
      fixture.log.inject({op, -EINTR});
      fixture.log.inject({op, -EAGAIN});
    }
    CHECK(fixture.client->write(0, fixture.buffer, true) == 0);
    CHECK(fixture.client->flush() == 0);
    CHECK(fixture.client->range(BlockOp::kWriteZeroes, 0, 4096, true) == 0);
    fixture.log.inject({IoOpKind::kWrite, -EAGAIN}, 65);
    CHECK(fixture.client->write(0, fixture.buffer, true) == EAGAIN);
    CHECK(fixture.client->write(0, fixture.buffer, true) == 0);
  }
}

TEST_CASE("EINVAL bounces once, and stays durable") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    fixture.log.inject({IoOpKind::kWrite, -EINVAL});
    REQUIRE(fixture.client->write(0, fixture.buffer, true) == 0);
    CHECK(fixture.log.take() ==
          std::vector{write_entry(0, 4096, true), write_entry(0, 4096, true)});
    AlignedBuffer in(4096);
    fixture.log.inject({IoOpKind::kRead, -EINVAL});
    REQUIRE(fixture.client->read(0, in) == 0);
    CHECK(in == fixture.buffer);
    fixture.log.inject({IoOpKind::kWrite, -EINVAL}, 2);
    CHECK(fixture.client->write(0, fixture.buffer, true) == EINVAL);
  }
}

TEST_CASE("zeroes are written where the file system cannot zero by itself") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    AlignedBuffer data(3U << 20U);
    data.fill(0xff);
    REQUIRE(fixture.client->write(0, data) == 0);
    fixture.log.take();
    fixture.log.inject({IoOpKind::kFallocate, -EOPNOTSUPP}, 2);
    constexpr uint64_t kLength = (5U << 19U) + 512;
    REQUIRE(fixture.client->range(BlockOp::kWriteZeroes, 512, kLength, true, true) == 0);
    std::vector<Entry> entries = fixture.log.take();
    REQUIRE(entries.size() == 5);  // punch, zero range, three pieces
    for (size_t i = 2; i < 5; ++i) CHECK((entries[i].kind == IoOpKind::kWrite && entries[i].dsync));
    REQUIRE(fixture.client->read(0, data) == 0);
    CHECK(data.data()[511] == std::byte{0xff});
    CHECK(data.data()[512] == std::byte{0});
    CHECK(data.data()[512 + kLength - 1] == std::byte{0});
    CHECK(data.data()[512 + kLength] == std::byte{0xff});
  }
}

TEST_CASE("what a device cannot be made of is refused") {
  EngineLog log;
  const auto thread = recording_thread(EngineKind::kAuto, log);
  const TestImage image(1U << 20U);
  const auto error_of = [&](UniqueFd fd, bool read_only) {
    auto opened = FileDevice::open(
        {.fd = std::move(fd), .label = "disk.img", .read_only = read_only}, *thread);
    return opened.ok() ? std::string() : opened.error().message;
  };
  CHECK(error_of(image.open(O_RDONLY), false) == "disk.img is open for reading only");
  CHECK(error_of(image.open(O_RDONLY), true).empty());
  CHECK(error_of(image.open(O_RDWR), false).empty());  // O_DIRECT is added
  CHECK(!error_of(open_file("device", "/dev/null", O_RDWR).value(), false).empty());
  const UniqueFd odd = image.open();
  REQUIRE(::ftruncate(odd.get(), 1000) == 0);
  CHECK(error_of(image.open(), false).find("not a multiple") != std::string::npos);
  REQUIRE(::ftruncate(odd.get(), 0) == 0);
  CHECK(error_of(image.open(), false) == "disk.img is empty");
}

TEST_CASE("a device goes on with another descriptor, and remembers a failed flush") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    const TestImage other(16U << 20U);
    REQUIRE(fixture.client->write(0, fixture.buffer) == 0);
    fixture.log.inject({IoOpKind::kSync, -EIO});
    REQUIRE(fixture.client->flush() == EIO);
    const FileFacts facts =
        FileDevice::examine({.fd = other.open().get(), .label = other.path()}).value();
    fixture.thread->run([&] { REQUIRE(fixture.device->reopen(other.open(), facts).ok()); });
    CHECK(fixture.client->flush() == EIO);
    REQUIRE(fixture.client->write(4096, fixture.buffer, true) == 0);
    AlignedBuffer found(4096);
    REQUIRE(::pread(other.open().get(), found.data(), found.size(), 4096) == 4096);
    CHECK(found == fixture.buffer);
    // As large as before, until it is looked at.
    CHECK(fixture.device->info().size_bytes == 8U << 20U);
    fixture.thread->run([&] { REQUIRE(fixture.device->reread_size().ok()); });
    CHECK(fixture.device->info().size_bytes == 16U << 20U);
  }
}

TEST_CASE("a descriptor of something smaller, or with other blocks, is not gone on with") {
  Fixture fixture(EngineKind::kAuto);
  const TestImage small(4U << 20U);
  FileFacts facts = FileDevice::examine({.fd = small.open().get(), .label = small.path()}).value();
  const auto reopen = [&] {
    Result<> done;
    fixture.thread->run([&] { done = fixture.device->reopen(small.open(), facts); });
    return done.ok() ? "" : done.error().message;
  };
  CHECK(reopen() == fixture.image.path() + " has shrunk from 8388608 to 4194304 bytes");
  facts.info.logical_block_size = 4096;
  CHECK(reopen() == fixture.image.path() + " has blocks of 4096 bytes now, and had blocks of 512");
  REQUIRE(fixture.client->write(0, fixture.buffer, true) == 0);
  AlignedBuffer found(4096);
  REQUIRE(::pread(fixture.image.open().get(), found.data(), found.size(), 0) == 4096);
  CHECK(found == fixture.buffer);
}

TEST_CASE("a read-only device offers no changes, and discard can be switched off") {
  EngineLog log;
  const auto thread = recording_thread(EngineKind::kAuto, log);
  const TestImage image(1U << 20U);
  const auto read_only =
      FileDevice::open({.fd = image.open(O_RDONLY), .label = "image", .read_only = true}, *thread)
          .value();
  CHECK(read_only->info().read_only);
  CHECK(read_only->info().max_discard_bytes == 0);
  CHECK(read_only->info().max_write_zeroes_bytes == 0);
  const auto plain =
      FileDevice::open({.fd = image.open(), .label = "image", .discard = false}, *thread).value();
  CHECK(plain->info().max_discard_bytes == 0);
  CHECK(plain->info().max_write_zeroes_bytes > 0);
  CHECK(plain->info().volatile_cache);
  CHECK(plain->info().logical_block_size == 512);
}

TEST_CASE("an image that shrinks under us gives errors, not zeroes") {
  for (const EngineKind kind : kBothEngines) {
    Fixture fixture(kind);
    const UniqueFd other = fixture.image.open();
    REQUIRE(::ftruncate(other.get(), 4096) == 0);
    CHECK(fixture.client->read(8192, fixture.buffer) == EIO);
  }
}

}  // namespace plumb
