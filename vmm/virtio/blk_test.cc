#include "vmm/virtio/blk.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <thread>

#include "blockdev/file_device.h"
#include "tests/fakes/blk_fixture.h"
#include "tests/fakes/recording_engine.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

using Fixture = BlkFixture;
constexpr uint64_t kSize = kBlkFixtureBytes;
constexpr uint64_t kFlushFeature = 1ULL << 9U;
constexpr uint64_t kConfigWceFeature = 1ULL << 11U;
constexpr uint32_t kWritebackField = 32;

}  // namespace

TEST_CASE("what a guest writes it reads back, whatever is negotiated") {
  for (const uint64_t features :
       {~uint64_t{0}, ~kVirtioFEventIdx, ~kVirtioFIndirectDesc, kVirtioFVersion1}) {
    Fixture fixture;
    REQUIRE(fixture.driver->start(features).ok());
    const GuestBuffer out = fixture.guest.allocate(8192);
    const GuestBuffer in = fixture.guest.allocate(8192);
    for (unsigned round = 0; round < 300; ++round) {
      out.fill(static_cast<unsigned char>(round));
      REQUIRE(fixture.write(round % 64, out) == kBlkOk);
      CHECK(fixture.last_used.length == 1);
      REQUIRE(fixture.read(round % 64, in) == kBlkOk);
      CHECK(fixture.last_used.length == 8193);
      REQUIRE(in.all(static_cast<unsigned char>(round)));
    }
    CHECK(fixture.flush() == kBlkOk);
  }
}

TEST_CASE("an indirect request of many buffers works") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer status = fixture.guest.allocate(1);
  ChainBuilder chain = fixture.driver->queue().chain().indirect();
  chain.readable(fixture.header(1, 0));
  for (unsigned i = 0; i < VirtioBlk::kSegMax; ++i) {
    const GuestBuffer part = fixture.guest.allocate(512);
    part.fill(static_cast<unsigned char>(i));
    chain.readable(part);
  }
  status.fill(0xff);
  chain.writable(status).send();
  fixture.driver->queue().wait_used();
  CHECK(status.byte() == kBlkOk);
  const GuestBuffer in = fixture.guest.allocate(512);
  CHECK(fixture.read(253, in) == kBlkOk);
  CHECK(in.all(253));
}

TEST_CASE("the configuration space tells size, limits and cache") {
  Fixture fixture(CacheMode::kWritethrough, 4);
  FakeDriver& driver = *fixture.driver;
  CHECK(driver.config<uint64_t>(0) == kSize / 512);
  CHECK(driver.config<uint32_t>(12) == VirtioBlk::kSegMax);
  CHECK(driver.config<uint32_t>(20) == 512);
  CHECK(driver.config<uint8_t>(24) == 0);
  CHECK(driver.config<uint8_t>(kWritebackField) == 0);
  CHECK(driver.config<uint16_t>(34) == 4);
  CHECK(driver.config<uint32_t>(36) == 2048);
  CHECK(driver.config<uint32_t>(40) == 1);
  CHECK(driver.config<uint32_t>(44) == 8);
  CHECK(driver.config<uint32_t>(48) == 2048);
  CHECK(driver.config<uint8_t>(56) == 1);
  CHECK(driver.config<uint64_t>(60) == 0);  // beyond the end
  CHECK(driver.config<uint64_t>(0xfffffffc) == 0);
  for (const unsigned bit : {2U, 6U, 9U, 10U, 11U, 12U, 13U, 14U, 28U, 29U, 32U}) {
    CHECK((fixture.blk->features() >> bit & 1U) == 1);
  }
  CHECK((fixture.blk->features() >> 5U & 1U) == 0);
  CHECK(fixture.blk->queue_sizes().size() == 4);
}

TEST_CASE("the serial is told, padded to 20 bytes, over split buffers") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer id = fixture.guest.allocate(20);
  id.fill(0xee);
  const GuestBuffer status = fixture.guest.allocate(1);
  fixture.driver->queue()
      .chain()
      .readable(fixture.header(8, 0))
      .writable(id.part(0, 3))
      .writable(id.part(3, 17))
      .writable(status)
      .send();
  CHECK(fixture.driver->queue().wait_used().length == 21);
  CHECK(status.byte() == kBlkOk);
  CHECK(std::memcmp(id.host, "SERIAL-1\0\0\0\0\0\0\0\0\0\0\0\0", 20) == 0);
}

TEST_CASE("discard and write-zeroes reach the disk") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer data = fixture.guest.allocate(4096);
  data.fill(0x11);
  REQUIRE(fixture.write(0, data) == kBlkOk);
  REQUIRE(fixture.range(13, 0, 1, 1) == kBlkOk);
  REQUIRE(fixture.range(11, 2, 1) == kBlkOk);
  REQUIRE(fixture.read(0, data) == kBlkOk);
  CHECK(data.part(0, 512).all(0));
  CHECK(data.part(512, 512).all(0x11));
  CHECK(data.part(1024, 512).all(0));
}

TEST_CASE("who decides that a write is durable") {
  struct Case {
    CacheMode cache;
    uint64_t features;
    int writeback;  // what the guest writes there; -1: nothing
    bool durable;
  };
  const uint64_t all = ~0ULL;
  const Case cases[] = {
      {CacheMode::kWritethrough, all, -1, true},
      {CacheMode::kWritethrough, all, 1, true},
      {CacheMode::kWritethrough, all & ~kConfigWceFeature, -1, true},
      {CacheMode::kWriteback, all, -1, false},
      {CacheMode::kWriteback, all, 0, true},
      {CacheMode::kWriteback, all, 1, false},
      {CacheMode::kWriteback, all & ~kConfigWceFeature, -1, false},
      {CacheMode::kWriteback, all & ~kConfigWceFeature & ~kFlushFeature, -1, true},
  };
  for (const Case& one : cases) {
    Fixture fixture(one.cache);
    REQUIRE(fixture.driver->start(one.features).ok());
    CHECK(fixture.driver->config<uint8_t>(kWritebackField) ==
          (one.cache == CacheMode::kWriteback ? 1 : 0));
    if (one.writeback >= 0) {
      const std::byte value{static_cast<uint8_t>(one.writeback)};
      fixture.blk->write_config(kWritebackField, {&value, 1});
      CHECK(fixture.driver->config<uint8_t>(kWritebackField) == one.writeback);
    }
    REQUIRE(fixture.write(0, fixture.guest.allocate(512)) == kBlkOk);
    REQUIRE(fixture.range(13, 0, 1) == kBlkOk);
    REQUIRE(fixture.control.seen.size() == 2);
    CHECK(fixture.control.seen[0].durable == one.durable);
    CHECK(fixture.control.seen[1].durable == one.durable);
  }
}

// Section 5.2.5.2: with CONFIG_WCE and without FLUSH, `writeback` is 0 at first.
TEST_CASE("a driver that can switch the cache and cannot flush starts without one") {
  Fixture fixture(CacheMode::kWriteback);
  REQUIRE(fixture.driver->start(~kFlushFeature).ok());
  CHECK(fixture.driver->config<uint8_t>(kWritebackField) == 0);
  REQUIRE(fixture.write(0, fixture.guest.allocate(512)) == kBlkOk);
  CHECK(fixture.control.seen.at(0).durable);
  fixture.driver->reset();
  REQUIRE(fixture.driver->start().ok());
  CHECK(fixture.driver->config<uint8_t>(kWritebackField) == 1);
}

TEST_CASE("only the writeback byte of the configuration space is writable") {
  Fixture fixture;
  const uint64_t ones = ~0ULL;
  const auto bytes = std::as_bytes(std::span(&ones, 1));
  for (const uint32_t offset : {0U, 8U, 20U, 33U, 40U, 60U, 0xfffffff8U}) {
    fixture.blk->write_config(offset, bytes);
  }
  CHECK(fixture.driver->config<uint64_t>(0) == kSize / 512);
  CHECK(fixture.driver->config<uint8_t>(kWritebackField) == 0);
  fixture.blk->write_config(28, bytes);
  CHECK(fixture.driver->config<uint8_t>(kWritebackField) == 1);
}

TEST_CASE("several queues work side by side, each with its own interrupt") {
  Fixture fixture(CacheMode::kWritethrough, 4);
  REQUIRE(fixture.driver->start().ok());
  for (size_t i = 0; i < 4; ++i) {
    const GuestBuffer status = fixture.guest.allocate(1);
    status.fill(0xff);
    FakeQueue& queue = fixture.driver->queue(i);
    queue.chain().readable(fixture.header(4, 0)).writable(status).send();
    queue.wait_used();
    CHECK(status.byte() == kBlkOk);
  }
}

TEST_CASE("a batch is answered with one interrupt at most") {
  Fixture fixture;
  REQUIRE(fixture.driver->start(~kVirtioFEventIdx).ok());
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer data = fixture.guest.allocate(512);
  fixture.on_thread([&] { fixture.control.keep = true; });
  for (int i = 0; i < 64; ++i) {
    queue.chain()
        .readable(fixture.header(0, 0))
        .writable(data)
        .writable(fixture.guest.allocate(1))
        .add_available();
  }
  queue.publish();
  queue.kick();
  fixture.wait_kept(64);
  CHECK(queue.interrupts == 0);
  CHECK(queue.used_index() == 0);
  fixture.let_go();
  for (int i = 0; i < 64; ++i) queue.wait_used();
  fixture.on_thread([] {});
  CHECK(queue.interrupts == 1);
}

TEST_CASE("errors of the disk reach the guest as I/O errors, never as success") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer data = fixture.guest.allocate(512);
  for (const int error : {EIO, ENOSPC, EBADE, ENODATA, EINVAL, EAGAIN, ENOMEM}) {
    for (const uint32_t type : {0U, 1U, 4U}) {
      fixture.on_thread([&] { fixture.control.fail = error; });
      const GuestBuffer status = fixture.guest.allocate(1);
      status.fill(0xff);
      ChainBuilder chain = fixture.driver->queue().chain();
      chain.readable(fixture.header(type, 0));
      if (type == 1) chain.readable(data);
      if (type == 0) chain.writable(data);
      chain.writable(status).send();
      fixture.wait_kept(1);
      fixture.let_go(error);
      const FakeQueue::Used used = fixture.driver->queue().wait_used();
      CHECK(status.byte() == kBlkIoError);
      CHECK(used.length == (type == 0 ? 0 : 1));
    }
  }
  fixture.on_thread([&] { fixture.control.fail = 0; });
  CHECK(fixture.write(0, data) == kBlkOk);
}

TEST_CASE("nothing is told before the disk has answered") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  fixture.on_thread([&] { fixture.control.keep = true; });
  const GuestBuffer status = fixture.guest.allocate(1);
  status.fill(0xff);
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer data = fixture.guest.allocate(512);
  queue.chain().readable(fixture.header(1, 0)).readable(data).writable(status).send();
  fixture.wait_kept(1);
  fixture.on_thread([] {});
  CHECK(queue.used_index() == 0);
  CHECK(status.byte() == 0xff);
  fixture.let_go();
  queue.wait_used();
  CHECK(status.byte() == kBlkOk);
}

TEST_CASE("a reset while the disk is held takes parked requests back") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  std::binary_semaphore drained(0);
  fixture.on_thread([&] { fixture.disk->hold(kForever, [&](Result<>) { drained.release(); }); });
  drained.acquire();
  for (int i = 0; i < 8; ++i) {
    fixture.driver->queue()
        .chain()
        .readable(fixture.header(4, 0))
        .writable(fixture.guest.allocate(1))
        .send();
  }
  fixture.on_thread([] {});
  fixture.driver->reset();
  fixture.on_thread([&] { fixture.disk->release(); });
  CHECK(fixture.control.seen.empty());
  REQUIRE(fixture.driver->start().ok());
  CHECK(fixture.flush() == kBlkOk);
}

TEST_CASE("a disk that grew tells the guest, and is used up to its new end") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  fixture.control.keep = true;
  fixture.control.grow_to = 2 * kSize;
  const GuestBuffer data = fixture.guest.allocate(512);
  CHECK(fixture.read(kSize / 512, data) == 1);
  fixture.on_thread([&] { ENSURE(fixture.disk->reread_size().ok()); });
  CHECK(fixture.driver->config<uint64_t>(0) == 2 * kSize / 512);
  CHECK(fixture.driver->config_interrupts == 1);
  fixture.on_thread([&] { ENSURE(fixture.disk->reread_size().ok()); });
  CHECK(fixture.driver->config_interrupts == 1);
  fixture.driver->queue()
      .chain()
      .readable(fixture.header(0, kSize / 512))
      .writable(data)
      .writable(fixture.guest.allocate(1))
      .send();
  fixture.wait_kept(1);
  fixture.let_go();
  fixture.driver->queue().wait_used();
}

TEST_CASE("a reset takes back what an error stopped") {
  Fixture fixture({.id = "data", .on_error = ErrorPolicy::kPause});
  REQUIRE(fixture.driver->start().ok());
  fixture.control.keep = true;
  const GuestBuffer data = fixture.guest.allocate(4096);
  fixture.driver->queue()
      .chain()
      .readable(fixture.header(1, 0))
      .readable(data)
      .writable(fixture.guest.allocate(1))
      .send();
  fixture.wait_kept(1);
  fixture.let_go(ENOSPC);
  fixture.on_thread([&] { ENSURE(fixture.disk->stopped()); });
  fixture.driver->reset();
  fixture.on_thread([&] { fixture.disk->retry(); });
  CHECK(fixture.control.seen.size() == 1);
}

TEST_CASE("reset is harmless when not active, and twice") {
  Fixture fixture;
  fixture.driver->reset();
  REQUIRE(fixture.driver->start().ok());
  fixture.driver->reset();
  fixture.driver->reset();
}

TEST_CASE("a read-only disk is offered as such and refuses writes") {
  BlockInfo info = Fixture::usual_info();
  info.read_only = true;
  Fixture fixture(CacheMode::kWritethrough, 1, info);
  CHECK((fixture.blk->features() >> 5U & 1U) == 1);
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer data = fixture.guest.allocate(512);
  CHECK(fixture.write(0, data) == kBlkIoError);
  CHECK(fixture.read(0, data) == kBlkOk);
}

TEST_CASE("on an image: guest writes are single durable operations, answered after them") {
  for (const EngineKind kind : {EngineKind::kUring, EngineKind::kLibaio}) {
    EngineLog log;
    const auto thread = recording_thread(kind, log);
    const TestImage image(kSize);
    Disk disk({.id = "root", .serial = "", .cache = CacheMode::kWritethrough},
              FileDevice::open({.fd = image.open(), .label = "image"}, *thread).value(), *thread);
    FakeGuest guest;
    VirtioBlk blk(disk, 1);
    FakeDriver driver(guest, blk);
    REQUIRE(driver.start().ok());
    struct {
      uint32_t type = 1;
      uint32_t reserved = 0;
      uint64_t sector = 8;
    } write;
    const GuestBuffer header = guest.place(write);
    const GuestBuffer data = guest.allocate(8192, 4096);
    data.fill(0xd5);
    const GuestBuffer status = guest.allocate(1);
    for (int i = 0; i < 20; ++i) {
      status.fill(0xff);
      driver.queue().chain().readable(header).readable(data).writable(status).send();
      driver.queue().wait_used();
      REQUIRE(status.byte() == kBlkOk);
    }
    const std::vector<EngineLog::Entry> entries = log.take();
    REQUIRE(entries.size() == 20);
    for (const auto& entry : entries) {
      CHECK(entry == EngineLog::Entry{IoOpKind::kWrite, true, 0, 4096, 8192});
    }
    log.inject({IoOpKind::kWrite, -EIO});
    driver.queue().chain().readable(header).readable(data).writable(status).send();
    driver.queue().wait_used();
    CHECK(status.byte() == kBlkIoError);
    driver.reset();
  }
}

}  // namespace plumb
