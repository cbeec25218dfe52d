// Drivers that ring the doorbell only when they are asked to, as Linux does: no request is missed,
// whether the I/O thread sleeps or looks by itself. A miss hangs the test.
#include <catch2/catch.hpp>
#include <random>

#include "base/endian.h"
#include "blockdev/file_device.h"
#include "blockdev/scsi_disk.h"
#include "tests/fakes/fake_driver.h"
#include "tests/fakes/test_image.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/scsi.h"

namespace plumb {
namespace {

constexpr uint32_t kRequests = 15000;
constexpr unsigned kMaxDepth = 6;  // more than a thread looks for completions of
constexpr uint8_t kTarget = 3;
constexpr uint32_t kSense = 96;

// Reads of the first block; `make` adds one's chain.
template <typename Make>
void read_in_turns(FakeQueue& queue, const Make& make) {
  std::mt19937 random(1);
  uint32_t sent = 0;
  uint32_t ended = 0;
  while (ended < kRequests) {
    const auto depth = static_cast<unsigned>(1 + random() % kMaxDepth);
    for (unsigned i = 0; i < depth; ++i, ++sent) {
      make();
      queue.publish_and_ring_if_asked();
    }
    for (; ended < sent; ++ended) queue.wait_used();
  }
}

struct Fixture {
  explicit Fixture(int64_t poll_max_ns) {
    IoThread::Config config;
    config.name = "io-test";
    config.poll_max_ns = poll_max_ns;
    thread = IoThread::start(std::move(config)).value();
    disk.emplace(Disk::Config{.id = "data", .serial = ""},
                 FileDevice::open({.fd = image.open(), .label = "image"}, *thread).value(),
                 *thread);
  }

  TestImage image{1U << 20U};
  std::unique_ptr<IoThread> thread;
  std::optional<Disk> disk;
  FakeGuest guest{16U << 20U};
  GuestBuffer data = guest.allocate(512, 512);
};

}  // namespace

TEST_CASE("stress: a disk misses no request of a driver that rings only when asked") {
  for (const int64_t poll_max_ns : {int64_t{0}, int64_t{20'000}, int64_t{10'000'000}}) {
    Fixture fixture(poll_max_ns);
    VirtioBlk blk(*fixture.disk, 1);
    FakeDriver driver(fixture.guest, blk);
    REQUIRE(driver.start().ok());
    const GuestBuffer header = fixture.guest.allocate(16);
    const GuestBuffer status = fixture.guest.allocate(1);
    FakeQueue& queue = driver.queue(0);
    read_in_turns(queue, [&] {
      queue.chain().readable(header).writable(fixture.data).writable(status).add_available();
    });
    CHECK(status.byte(0) == 0);
  }
}

TEST_CASE("stress: a SCSI host misses no request of a driver that rings only when asked") {
  for (const int64_t poll_max_ns : {int64_t{0}, int64_t{20'000}, int64_t{10'000'000}}) {
    Fixture fixture(poll_max_ns);
    ScsiDisk lun(*fixture.disk, {.vendor = "PLUMB",
                                 .product = "VIRTUAL DISK",
                                 .revision = "0001",
                                 .serial = "serial",
                                 .naa = {}});
    VirtioScsi scsi(*fixture.thread, 1);
    scsi.add_target(kTarget, lun);
    FakeDriver driver(fixture.guest, scsi);
    REQUIRE(driver.start().ok());
    const GuestBuffer header = fixture.guest.allocate(19 + 32);
    const ScsiLunAddress address = address_of(kTarget);
    std::memcpy(header.host, address.data(), address.size());
    header.host[19] = std::byte{0x28};  // READ(10) of one block
    header.host[19 + 8] = std::byte{1};
    const GuestBuffer response = fixture.guest.allocate(12 + kSense);
    FakeQueue& queue = driver.queue(2);
    read_in_turns(queue, [&] {
      queue.chain().readable(header).writable(response).writable(fixture.data).add_available();
    });
    CHECK(response.byte(10) == 0);
    CHECK(response.byte(11) == 0);
  }
}

}  // namespace plumb
