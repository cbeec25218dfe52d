#include "blockdev/disk.h"

#include <catch2/catch.hpp>
#include <cerrno>

#include "blockdev/gone_device.h"
#include "blockdev/mem_device.h"
#include "tests/fakes/block_client.h"

namespace plumb {
namespace {

constexpr uint64_t kSize = 1U << 20U;

BlockInfo small_info() {
  BlockInfo info;
  info.size_bytes = kSize;
  info.max_discard_bytes = 64U << 10U;
  info.max_write_zeroes_bytes = 64U << 10U;
  return info;
}

// Keeps what reaches it until the test lets it go.
class SlowDevice final : public BlockDevice {
 public:
  explicit SlowDevice(std::vector<BlockRequest*>& reached) : reached_(reached) {}
  const BlockInfo& info() const override { return info_; }
  void submit(BlockRequest& request) override { reached_.push_back(&request); }

 private:
  BlockInfo info_ = small_info();
  std::vector<BlockRequest*>& reached_;
};

struct Fixture {
  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  std::vector<BlockRequest*> reached;
  AlignedBuffer data{4096};

  Disk slow(CacheMode cache = CacheMode::kWritethrough) {
    return Disk({.id = "data", .serial = "", .cache = cache}, std::make_unique<SlowDevice>(reached),
                *thread);
  }
  void let_go(size_t index, int error = 0) {
    thread->run([&] {
      BlockRequest* request = reached[index];
      request->error = error;
      request->done(*request);
    });
  }
  void prepare_write(TestRequest& request) {
    request.op = BlockOp::kWrite;
    request.set_parts({data.part(0, 4096)});
  }
};

}  // namespace

TEST_CASE("a disk refuses what is outside its device's contract, through done()") {
  Fixture fixture;
  BlockInfo info = small_info();
  info.logical_block_size = 4096;
  Disk disk({.id = "data", .serial = "", .cache = CacheMode::kWritethrough},
            std::make_unique<MemDevice>(info, *fixture.thread), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  const AlignedBuffer block(4096);
  const AlignedBuffer sector(512);
  CHECK(client.write(0, block) == 0);
  CHECK(client.write(kSize - 4096, block) == 0);
  CHECK(client.write(kSize, block) == EINVAL);
  CHECK(client.write(kSize - 4096, AlignedBuffer(8192)) == EINVAL);
  CHECK(client.write(UINT64_MAX - 4095, block) == EINVAL);
  CHECK(client.write(512, block) == EINVAL);
  CHECK(client.write(0, sector) == EINVAL);
  CHECK(client.read(0, sector) == EINVAL);
  CHECK(client.transfer(BlockOp::kRead, 0, {}) == EINVAL);
  CHECK(client.range(BlockOp::kDiscard, 0, 128U << 10U) == EINVAL);
  CHECK(client.range(BlockOp::kWriteZeroes, 0, 128U << 10U) == EINVAL);
  CHECK(client.range(BlockOp::kDiscard, kSize - 4096, 8192) == EINVAL);
  CHECK(client.range(BlockOp::kDiscard, 4096, UINT64_MAX - 4095) == EINVAL);
  CHECK(client.range(BlockOp::kDiscard, 0, 4096) == 0);
}

TEST_CASE("a length that is not the sum of the buffers is refused") {
  Fixture fixture;
  Disk disk({.id = "data", .serial = "", .cache = CacheMode::kWritethrough},
            std::make_unique<MemDevice>(small_info(), *fixture.thread), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest request;
  request.op = BlockOp::kRead;
  request.set_parts({fixture.data.part(0, 512)});
  request.length = 1024;
  CHECK(client.finish(request) == EINVAL);
}

TEST_CASE("a read-only disk refuses every change and serves reads") {
  Fixture fixture;
  BlockInfo info = small_info();
  info.read_only = true;
  Disk disk({.id = "data", .serial = "", .cache = CacheMode::kWritethrough},
            std::make_unique<MemDevice>(info, *fixture.thread), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  CHECK(client.read(0, fixture.data) == 0);
  CHECK(client.write(0, fixture.data) == EROFS);
  CHECK(client.range(BlockOp::kDiscard, 0, 4096) == EROFS);
  CHECK(client.range(BlockOp::kWriteZeroes, 0, 4096) == EROFS);
  CHECK(client.flush() == 0);
}

TEST_CASE("writethrough makes every change durable, writeback leaves that to the front end") {
  for (const CacheMode cache : {CacheMode::kWritethrough, CacheMode::kWriteback}) {
    Fixture fixture;
    Disk disk = fixture.slow(cache);
    BlockClient<Disk> client(disk, *fixture.thread);
    TestRequest requests[3];
    fixture.prepare_write(requests[0]);
    requests[1].op = BlockOp::kDiscard;
    requests[1].length = 4096;
    requests[2].op = BlockOp::kWriteZeroes;
    requests[2].length = 4096;
    for (TestRequest& request : requests) client.submit(request);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(fixture.reached[i]->durable == (cache == CacheMode::kWritethrough));
      fixture.let_go(i);
    }
  }
}

TEST_CASE("a hold waits for what is in flight and parks what comes") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest first;
  TestRequest second;
  fixture.prepare_write(first);
  fixture.prepare_write(second);
  client.submit(first);
  std::binary_semaphore drained(0);
  fixture.thread->run([&] { disk.hold(kForever, [&](Result<>) { drained.release(); }); });
  client.submit(second);
  fixture.thread->run([] {});
  CHECK(!drained.try_acquire());
  CHECK(fixture.reached.size() == 1);
  fixture.let_go(0);
  drained.acquire();
  CHECK(fixture.reached.size() == 1);
  fixture.thread->run([&] {
    ENSURE(disk.in_flight() == 0);
    disk.release();
  });
  CHECK(fixture.reached.size() == 2);
  fixture.let_go(1);
  CHECK(second.calls == 1);
}

TEST_CASE("holds nest, and requests pass in order when the last one ends") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  std::counting_semaphore<> drained(0);
  fixture.thread->run([&] { disk.hold(kForever, [&](Result<>) { drained.release(); }); });
  fixture.thread->run([&] { disk.hold(kForever, [&](Result<>) { drained.release(); }); });
  drained.acquire();
  drained.acquire();
  TestRequest requests[3];
  for (TestRequest& request : requests) {
    fixture.prepare_write(request);
    client.submit(request);
  }
  fixture.thread->run([&] { disk.release(); });
  CHECK(fixture.reached.empty());
  fixture.thread->run([&] { disk.release(); });
  REQUIRE(fixture.reached.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(fixture.reached[i] == &requests[i]);
    fixture.let_go(i);
  }
}

TEST_CASE("a hold that is given up early never tells that the disk drained") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest request;
  fixture.prepare_write(request);
  client.submit(request);
  bool drained = false;
  fixture.thread->run([&] { disk.hold(kForever, [&](Result<>) { drained = true; }); });
  fixture.thread->run([&] { disk.release(); });
  fixture.let_go(0);
  fixture.thread->run([] {});
  fixture.thread->run([] {});
  CHECK(!drained);
}

TEST_CASE("a parked request can be withdrawn, one that reached the device cannot") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest sent;
  TestRequest parked[3];
  fixture.prepare_write(sent);
  client.submit(sent);
  fixture.thread->run([&] { disk.hold(kForever, [](Result<>) {}); });
  for (TestRequest& request : parked) {
    fixture.prepare_write(request);
    client.submit(request);
  }
  fixture.thread->run([&] {
    ENSURE(!disk.withdraw(sent));
    ENSURE(disk.withdraw(parked[2]));
    ENSURE(!disk.withdraw(parked[2]));
    ENSURE(disk.withdraw(parked[0]));
    disk.release();
  });
  REQUIRE(fixture.reached.size() == 2);
  CHECK(fixture.reached[1] == &parked[1]);
  fixture.let_go(0);
  fixture.let_go(1);
  CHECK(parked[0].calls == 0);
  CHECK(parked[1].calls == 1);
}

TEST_CASE("a disk goes on with another device, and tells of another size") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  unsigned resized = 0;
  BlockInfo larger = small_info();
  larger.size_bytes *= 2;
  fixture.thread->run([&] {
    disk.on_resize([&] { ++resized; });
    disk.hold(kForever, [](Result<>) {});
  });
  TestRequest parked;
  fixture.prepare_write(parked);
  client.submit(parked);
  std::unique_ptr<BlockDevice> old;
  fixture.thread->run([&] {
    old = disk.replace_device(std::make_unique<MemDevice>(larger, *fixture.thread));
    disk.release();
  });
  fixture.thread->wait_for(parked.ended);
  CHECK(parked.error == 0);
  CHECK(fixture.reached.empty());
  CHECK(resized == 1);
  CHECK(disk.info().size_bytes == 2 * kSize);
}

TEST_CASE("an error of the device reaches the front end as it is") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest request;
  fixture.prepare_write(request);
  client.submit(request);
  fixture.let_go(0, ENOSPC);
  CHECK(request.error == ENOSPC);
  CHECK(disk.config().serial == "data");
}

TEST_CASE(
    "a hold that is not reached by its deadline ends with an error, and requests pass again") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest first;
  TestRequest second;
  fixture.prepare_write(first);
  fixture.prepare_write(second);
  client.submit(first);
  std::binary_semaphore ended(0);
  Result<> result;
  fixture.thread->run([&] {
    disk.hold(fixture.thread->turn_ns() + 1'000'000, [&](Result<> drained) {
      result = std::move(drained);
      ended.release();
    });
    disk.submit(second);
    ENSURE(fixture.reached.size() == 1);
  });
  ended.acquire();
  REQUIRE(!result.ok());
  CHECK(result.error().message ==
        "disk data cannot be held in the time given: its device still has 1 of its requests; look "
        "for slow storage in the host's log");
  fixture.thread->run([] {});
  CHECK(fixture.reached.size() == 2);
  fixture.let_go(0);
  fixture.let_go(1);
  CHECK(second.calls == 1);
}

TEST_CASE(
    "with the policy pause an error keeps the request, and retry sends it before later ones") {
  Fixture fixture;
  std::vector<DiskError> errors;
  Disk disk({.id = "data",
             .on_error = ErrorPolicy::kPause,
             .failed = [&](const DiskError& error) { errors.push_back(error); }},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest requests[4];
  for (TestRequest& request : requests) fixture.prepare_write(request);
  for (size_t i = 0; i < 3; ++i) client.submit(requests[i]);
  fixture.let_go(1, ENOSPC);
  fixture.let_go(0, ENOLINK);
  fixture.let_go(2);
  client.submit(requests[3]);
  CHECK(requests[0].calls == 0);
  CHECK(requests[1].calls == 0);
  CHECK(requests[2].calls == 1);
  CHECK(fixture.reached.size() == 3);
  fixture.thread->run([&] { ENSURE(disk.stopped() && disk.in_flight() == 0); });
  REQUIRE(errors.size() == 1);
  CHECK(errors[0].error == ENOSPC);
  CHECK(errors[0].stopped);
  CHECK(disk.stats().stops == 1);
  CHECK(disk.stats().of(BlockOp::kWrite).errors == 2);

  fixture.thread->run([&] { disk.retry(); });
  REQUIRE(fixture.reached.size() == 6);
  CHECK(fixture.reached[3] == &requests[1]);
  CHECK(fixture.reached[4] == &requests[0]);
  CHECK(fixture.reached[5] == &requests[3]);
  for (size_t i = 3; i < 6; ++i) fixture.let_go(i);
  for (const TestRequest& request : requests) {
    CHECK(request.calls == 1);
    CHECK(request.error == 0);
  }
  CHECK(disk.stats().of(BlockOp::kWrite).requests == 4);
}

TEST_CASE("a disk that is stopped sends nothing until it is to try again") {
  Fixture fixture;
  Disk disk = fixture.slow();
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest request;
  fixture.prepare_write(request);
  fixture.thread->run([&] { disk.stop(); });
  client.submit(request);
  CHECK(fixture.reached.empty());
  fixture.thread->run([&] { disk.retry(); });
  REQUIRE(fixture.reached.size() == 1);
  fixture.let_go(0);
  CHECK(request.calls == 1);
}

TEST_CASE("a disk that waits no longer ends what it kept with its error, and sends the rest") {
  Fixture fixture;
  Disk disk({.id = "data", .on_error = ErrorPolicy::kPause},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest kept;
  TestRequest parked;
  fixture.prepare_write(kept);
  fixture.prepare_write(parked);
  client.submit(kept);
  fixture.let_go(0, ENOLINK);
  client.submit(parked);
  fixture.thread->run([&] { disk.set_on_error(ErrorPolicy::kReport); });
  CHECK(kept.calls == 1);
  CHECK(kept.error == ENOLINK);
  REQUIRE(fixture.reached.size() == 2);
  fixture.let_go(1, EIO);
  CHECK(parked.calls == 1);
  CHECK(parked.error == EIO);
}

TEST_CASE("a disk that is cut off ends all that waits and comes with EIO, and is told when idle") {
  Fixture fixture;
  Disk disk({.id = "data", .on_error = ErrorPolicy::kPause},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest requests[5];
  for (TestRequest& request : requests) fixture.prepare_write(request);
  // One is kept by an error, one at the device, one parked, and one by a hold beside.
  client.submit(requests[0]);
  client.submit(requests[1]);
  fixture.let_go(0, ENOLINK);
  client.submit(requests[2]);
  fixture.thread->run([&] { disk.hold(kForever, [](Result<>) {}); });
  client.submit(requests[3]);
  bool idle = false;
  fixture.thread->run([&] { disk.cut_off([&] { idle = true; }); });
  client.submit(requests[4]);
  for (const size_t ended : {0U, 2U, 3U, 4U}) {
    fixture.thread->wait_for(requests[ended].ended);
    fixture.thread->run([] {});
    CHECK(requests[ended].calls == 1);
    CHECK(requests[ended].error == EIO);
  }
  fixture.thread->run([&] {
    ENSURE(!disk.stopped() && disk.in_flight() == 1);
    disk.retry();
    disk.release();
  });
  CHECK_FALSE(idle);
  CHECK(fixture.reached.size() == 2);
  fixture.let_go(1, ENOLINK);  // the policy does not keep it any more
  fixture.thread->run([] {});
  CHECK(idle);
  CHECK(requests[1].error == ENOLINK);
  fixture.thread->run([&] { disk.replace_device(std::make_unique<GoneDevice>(disk.info())); });
  CHECK(client.flush() == EIO);
  CHECK(disk.info().size_bytes == kSize);
}

TEST_CASE("a request kept by an error can be withdrawn") {
  Fixture fixture;
  Disk disk({.id = "data", .on_error = ErrorPolicy::kPause},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest request;
  fixture.prepare_write(request);
  client.submit(request);
  fixture.let_go(0, EIO);
  fixture.thread->run([&] { ENSURE(disk.withdraw(request)); });
  fixture.thread->run([&] { disk.retry(); });
  CHECK(request.calls == 0);
  CHECK(fixture.reached.size() == 1);
}

TEST_CASE(
    "with the policy pause, what a flush may have lost and a reservation conflict are reported") {
  Fixture fixture;
  Disk disk({.id = "data", .cache = CacheMode::kWriteback, .on_error = ErrorPolicy::kPause},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest flush;
  flush.op = BlockOp::kFlush;
  client.submit(flush);
  fixture.let_go(0, EIO);
  CHECK(flush.error == EIO);
  TestRequest write;
  fixture.prepare_write(write);
  client.submit(write);
  fixture.let_go(1, EBADE);
  CHECK(write.error == EBADE);
}

TEST_CASE("with writethrough a flush has nothing to lose, and is kept like others") {
  Fixture fixture;
  Disk disk({.id = "data", .on_error = ErrorPolicy::kPause},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  TestRequest flush;
  flush.op = BlockOp::kFlush;
  client.submit(flush);
  fixture.let_go(0, EIO);
  CHECK(flush.calls == 0);
  fixture.thread->run([&] { disk.retry(); });
  fixture.let_go(1);
  CHECK(flush.calls == 1);
  CHECK(flush.error == 0);
}

TEST_CASE("errors are told of once a second, with the number of those between") {
  Fixture fixture;
  std::vector<DiskError> errors;
  Disk disk({.id = "data", .failed = [&](const DiskError& error) { errors.push_back(error); }},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  for (size_t i = 0; i < 50; ++i) {
    TestRequest request;
    fixture.prepare_write(request);
    client.submit(request);
    fixture.let_go(i, EIO);
  }
  // However slow the test is, what was told and what was not add up.
  uint64_t known = errors.size();
  for (const DiskError& error : errors) known += error.unspoken;
  CHECK(errors.front().unspoken == 0);
  CHECK(known <= 50);
  CHECK(disk.stats().of(BlockOp::kWrite).errors == 50);
}

TEST_CASE("a disk over its limit lets requests pass later, in order") {
  Fixture fixture;
  Disk disk({.id = "data", .limit = {.requests_per_second = 1000, .burst_seconds = 0.002}},
            std::make_unique<SlowDevice>(fixture.reached), *fixture.thread);
  TestRequest requests[6];
  fixture.thread->run([&] {
    for (TestRequest& request : requests) {
      fixture.prepare_write(request);
      disk.submit(request);
    }
    // The burst, and one that is paid later.
    ENSURE(fixture.reached.size() == 3);
  });
  size_t reached = 0;
  while (reached < 6) fixture.thread->run([&] { reached = fixture.reached.size(); });
  for (size_t i = 0; i < 6; ++i) CHECK(fixture.reached[i] == &requests[i]);
  for (size_t i = 0; i < 6; ++i) fixture.let_go(i);
}

TEST_CASE("what a disk did is counted by kind, with the time it took") {
  Fixture fixture;
  Disk disk({.id = "data"}, std::make_unique<MemDevice>(small_info(), *fixture.thread),
            *fixture.thread);
  BlockClient<Disk> client(disk, *fixture.thread);
  const AlignedBuffer block(4096);
  for (int i = 0; i < 3; ++i) REQUIRE(client.write(0, block) == 0);
  REQUIRE(client.read(0, block) == 0);
  REQUIRE(client.flush() == 0);
  CHECK(client.read(kSize, block) == EINVAL);
  const DiskOpStats& writes = disk.stats().of(BlockOp::kWrite);
  CHECK(writes.requests == 3);
  CHECK(writes.bytes == 3 * 4096);
  uint64_t counted = 0;
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) counted += writes.latency.count(i);
  CHECK(counted == 3);
  CHECK(disk.stats().of(BlockOp::kRead).requests == 2);
  CHECK(disk.stats().of(BlockOp::kRead).bytes == 4096);
  CHECK(disk.stats().of(BlockOp::kFlush).requests == 1);
  CHECK(disk.stats().in_flight == 0);
}

}  // namespace plumb
