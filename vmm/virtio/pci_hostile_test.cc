// What a driver must not do to the registers of virtio-pci, each case named after the bug, here or
// elsewhere, that it would have been. The driver's side is written out by offsets, as virtio 1.2,
// section 4.1.4 has them.
#include <catch2/catch.hpp>
#include <random>

#include "tests/fakes/blk_fixture.h"
#include "tests/fakes/pci_fixture.h"

using namespace plumb;

namespace {

using Driver = PciFixture;

// A disk behind virtio-pci, its queue set up and in use.
struct DiskDriver {
  std::unique_ptr<IoThread> thread = IoThread::start({.name = "io-test"}).value();
  FakeGuest guest;
  Disk disk{{.id = "data"}, std::make_unique<MemDevice>(info(), *thread), *thread};
  FakeQueue queue{guest, 16};
  PciDriver pci{std::make_unique<VirtioBlk>(disk, 1), guest.memory()};

  static BlockInfo info() {
    BlockInfo info;
    info.size_bytes = 1U << 20U;
    return info;
  }
  void start() {
    pci.negotiate();
    pci.set_vectors(2);
    pci.set_queue(0, queue.setup());
    pci.write<uint16_t>(pci.common + common_cfg::kQueueVector, 1);
    pci.go();
  }
  // One request through the doorbell's register, until its interrupt; its status byte.
  uint8_t flush() {
    const struct {
      uint32_t type = 4;
      uint32_t reserved = 0;
      uint64_t sector = 0;
    } header;
    const GuestBuffer status = guest.allocate(1);
    status.fill(0xff);
    queue.chain().readable(guest.place(header)).writable(status).add_available();
    queue.publish();
    pci.write<uint16_t>(pci.notify, 0);
    const int interrupt = pci.events.routes.at(1).fd;
    while (!queue.next_used()) {
      pollfd poll{.fd = interrupt, .events = POLLIN, .revents = 0};
      ENSURE(::poll(&poll, 1, -1) == 1);
      pci.events.take_signals(1);
    }
    return status.byte();
  }
};

}  // namespace

TEST_CASE(
    "CVE-2026-5747: a disk goes on while its queue's registers are rewritten after DRIVER_OK") {
  DiskDriver driver;
  driver.start();
  const uint32_t common = driver.pci.common;
  for (int round = 0; round < 100; ++round) {
    driver.pci.select(0);
    driver.pci.write<uint16_t>(common + common_cfg::kQueueSize, round % 2 == 0 ? 0 : 0x8000);
    driver.pci.write<uint16_t>(common + common_cfg::kQueueEnable, 0);
    for (uint32_t ring = 0; ring < 3; ++ring) driver.pci.set_ring(ring, ~0ULL << (round % 64));
    REQUIRE(driver.flush() == kBlkOk);
  }
  CHECK((driver.pci.status() & kVirtioNeedsReset) == 0);
}

TEST_CASE("CVE-2026-5747: a queue set up outside RAM needs a reset, and after it the disk works") {
  DiskDriver driver;
  for (uint32_t ring = 0; ring < 3; ++ring) {
    for (const uint64_t address : {uint64_t{8} << 20U, uint64_t{1} << 40U, ~uint64_t{0xfff}}) {
      VirtioQueueSetup setup = driver.queue.setup();
      uint64_t* const rings[] = {&setup.descriptors, &setup.driver_ring, &setup.device_ring};
      *rings[ring] = address;
      driver.pci.negotiate();
      driver.pci.set_queue(0, setup);
      driver.pci.go();
      CHECK((driver.pci.status() & kVirtioNeedsReset) != 0);
      driver.pci.write<uint16_t>(driver.pci.notify, 0);  // nobody listens
      driver.pci.set_status(0);
      CHECK(driver.pci.status() == 0);
    }
  }
  driver.start();
  CHECK(driver.flush() == kBlkOk);
}

TEST_CASE("CH #8138: MSI-X entries beyond the table take nothing, and the disk still interrupts") {
  DiskDriver driver;
  driver.start();
  for (uint32_t offset = 2 * 16; offset < 0x1000; offset += 4) {
    driver.pci.write<uint32_t>(kPciMsixTable + offset, 0xffffffff);
    REQUIRE(driver.pci.read<uint32_t>(kPciMsixTable + offset) == 0);
  }
  for (uint32_t offset = 0; offset < 0x1000; offset += 8) {
    driver.pci.write<uint64_t>(kPciMsixPending + offset, ~0ULL);
    REQUIRE(driver.pci.read<uint64_t>(kPciMsixPending + offset) == 0);
  }
  // Across the end of the table and of the BAR.
  driver.pci.write<uint64_t>(kPciMsixTable + 2 * 16 - 4, ~0ULL);
  driver.pci.write<uint64_t>(0x7fff, ~0ULL);
  CHECK(driver.pci.read<uint64_t>(0x7fff) == 0);
  CHECK(driver.flush() == kBlkOk);
  CHECK(driver.pci.events.routes.size() == 2);
}

TEST_CASE("CVE-2026-5747: a queue's size and addresses are frozen from DRIVER_OK to reset") {
  Driver driver;
  driver.start();
  driver.select(0);
  driver.write<uint16_t>(driver.common + 0x18, 16);
  driver.write<uint32_t>(driver.common + 0x20, 0xdead0000);
  driver.write<uint64_t>(driver.common + 0x28, 0xdeadbeef000);
  driver.write<uint32_t>(driver.common + 0x34, 0xffffffff);
  driver.write<uint16_t>(driver.common + 0x1c, 0);
  CHECK(driver.read<uint16_t>(driver.common + 0x18) == 64);
  CHECK(driver.read<uint64_t>(driver.common + 0x20) == 0x10000);
  CHECK(driver.read<uint64_t>(driver.common + 0x28) == 0x11000);
  CHECK(driver.read<uint64_t>(driver.common + 0x30) == 0x12000);
  CHECK(driver.read<uint16_t>(driver.common + 0x1c) == 1);
}

TEST_CASE("CVE-2026-5747: a queue that was not enabled cannot be enabled after DRIVER_OK") {
  Driver driver;
  driver.negotiate();
  driver.set_queue(0, 64, 0x10000);
  driver.go();
  driver.set_queue(1, 64, 0x20000);
  driver.select(1);
  CHECK(driver.read<uint16_t>(driver.common + 0x1c) == 0);
  CHECK(driver.read<uint64_t>(driver.common + 0x20) == 0);
  CHECK_FALSE(driver.log.queues[1].enabled);
}

TEST_CASE(
    "CVE-2026-50626, QEMU #3882: a queue size that is zero, no power of two or too large is not "
    "taken") {
  Driver driver;
  driver.negotiate();
  driver.select(1);
  for (const uint16_t size : std::vector<uint16_t>{0, 3, 63, 65, 128, 0x8000, 0xffff}) {
    driver.write<uint16_t>(driver.common + 0x18, size);
    CHECK(driver.read<uint16_t>(driver.common + 0x18) == 64);
  }
  driver.write<uint16_t>(driver.common + 0x18, 1);
  CHECK(driver.read<uint16_t>(driver.common + 0x18) == 1);
}

TEST_CASE("CVE-2011-2512, CH #7917: a queue that is not there has size zero and takes nothing") {
  Driver driver;
  driver.negotiate();
  for (const uint16_t queue : std::vector<uint16_t>{2, 64, 0x7fff, 0xffff}) {
    driver.set_queue(queue, 64, 0x10000);
    driver.write<uint16_t>(driver.common + 0x1a, 0);
    CHECK(driver.read<uint16_t>(driver.common + 0x18) == 0);
    CHECK(driver.read<uint16_t>(driver.common + 0x1a) == kVirtioNoVector);
    CHECK(driver.read<uint16_t>(driver.common + 0x1c) == 0);
  }
}

TEST_CASE("CH #8138: a vector beyond the table reads back as none, and signals nothing") {
  Driver driver;
  driver.start();
  driver.select(0);
  for (const uint16_t vector : std::vector<uint16_t>{3, 64, 0x7fff, 0xfffe}) {
    driver.write<uint16_t>(driver.common + 0x1a, vector);
    CHECK(driver.read<uint16_t>(driver.common + 0x1a) == kVirtioNoVector);
    driver.write<uint16_t>(driver.common + 0x10, vector);
    CHECK(driver.read<uint16_t>(driver.common + 0x10) == kVirtioNoVector);
  }
  driver.log.interrupt->signal_queue(0);
  driver.log.interrupt->signal_config();
  for (size_t route = 0; route < 3; ++route) CHECK(driver.events.take_signals(route) == 0);
}

TEST_CASE(
    "CVE-2011-2512: a doorbell that comes as a write kicks its queue, and one out of range "
    "nothing") {
  Driver driver;
  driver.start();
  driver.write<uint16_t>(driver.notify + 4, 1);
  CHECK(is_signalled(driver.log.queues[1].kick_fd));
  CHECK_FALSE(is_signalled(driver.log.queues[0].kick_fd));
  for (uint32_t offset = 8; offset < 0x1000; offset += 4) {
    driver.write<uint16_t>(driver.notify + offset, 0);
  }
  driver.write<uint8_t>(driver.notify + 1, 0);
  driver.write<uint32_t>(driver.notify + 2, 0);
  CHECK_FALSE(is_signalled(driver.log.queues[0].kick_fd));
}

TEST_CASE("CH #8272: a window of odd length, offset or BAR shows nothing and changes nothing") {
  struct Window {
    uint8_t bar;
    uint32_t offset;
    uint32_t length;
  };
  Driver driver;
  driver.set_status(kVirtioAcknowledge);
  const uint32_t status = driver.common + 0x14;
  for (const Window& window :
       {Window{1, status, 1}, Window{5, status, 1}, Window{0xff, status, 1}, Window{0, status, 0},
        Window{0, status, 3}, Window{0, status, 8}, Window{0, status, 0xffffffff},
        Window{0, status + 1, 2}, Window{0, 0x8000, 1}, Window{0, 0x7ffe, 4},
        Window{0, 0xfffffffc, 4}, Window{0, 0xffffffff, 1}}) {
    INFO("bar " << int{window.bar} << " offset " << window.offset << " length " << window.length);
    driver.set_config<uint8_t>(driver.window + 4, window.bar);
    driver.set_config<uint32_t>(driver.window + 8, window.offset);
    driver.set_config<uint32_t>(driver.window + 12, window.length);
    driver.set_config<uint32_t>(driver.window + 16, 0);
    CHECK(driver.config<uint32_t>(driver.window + 16) == 0);
    CHECK(driver.status() == kVirtioAcknowledge);
  }
  CHECK(driver.log.resets == 0);
}

TEST_CASE("random accesses anywhere harm nothing, and a reset brings the device back") {
  Driver driver;
  const uint32_t seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50000; ++round) {
    std::byte data[8];
    for (std::byte& byte : data) byte = static_cast<std::byte>(random());
    const size_t width = 1 + random() % 8;
    const uint64_t offset = random() % (random() % 2 == 0 ? 0x40 : 0x8000);
    switch (random() % 4) {
      case 0:
        driver.mmio.read(driver.bar + offset, {data, width});
        break;
      case 1:
      case 2:
        driver.mmio.write(driver.bar + offset, {data, width});
        break;
      default:
        // Not the header: a BAR somewhere else would end the test's reach.
        driver.pci.ecam().write(1U << 15U | (0x40 + random() % 0xc0), {data, width});
        break;
    }
  }
  driver.set_status(0);
  driver.set_config<uint16_t>(driver.msix + 2, 0);
  driver.start();
  CHECK((driver.status() & kVirtioDriverOk) != 0);
}
