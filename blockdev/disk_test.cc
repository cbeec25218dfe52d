#include "blockdev/disk.h"

#include <catch2/catch.hpp>
#include <cerrno>

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
  fixture.thread->run([&] { disk.hold([&] { drained.release(); }); });
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
  fixture.thread->run([&] { disk.hold([&] { drained.release(); }); });
  fixture.thread->run([&] { disk.hold([&] { drained.release(); }); });
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
  fixture.thread->run([&] { disk.hold([&] { drained = true; }); });
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
  fixture.thread->run([&] { disk.hold([] {}); });
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

}  // namespace plumb
