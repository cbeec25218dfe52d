// The driver's side here is written out by offsets, as virtio 1.2, section 4.1.4 has them.
#include "vmm/virtio/pci.h"

#include <poll.h>

#include <catch2/catch.hpp>
#include <random>

#include "base/size.h"
#include "tests/fakes/pci_driver.h"

using namespace plumb;

namespace {

constexpr uint64_t kFeature = 1ULL << 5U;

struct Log {
  int activations = 0;
  int resets = 0;
  uint64_t features = 0;
  std::vector<VirtioQueueSetup> queues;
  VirtioInterrupt* interrupt = nullptr;
  bool refuse = false;
  uint64_t config_written = 0;
};

class TestDevice : public VirtioDevice {
 public:
  explicit TestDevice(Log& log) : log_(log) {}
  uint16_t device_id() const override { return kVirtioIdBlk; }
  uint64_t features() const override { return kVirtioFVersion1 | kFeature; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> data) override {
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = offset + i < 8 ? static_cast<std::byte>(0xa0 + offset + i) : std::byte{0};
    }
  }
  void write_config(uint32_t /*offset*/, std::span<const std::byte> data) override {
    log_.config_written = load_access(data);
  }
  Result<> activate(const VirtioActivation& activation) override {
    ++log_.activations;
    log_.features = activation.features;
    log_.queues.assign(activation.queues.begin(), activation.queues.end());
    log_.interrupt = activation.interrupt;
    if (log_.refuse) return failed("a queue is outside the guest's memory");
    return {};
  }
  void reset() override { ++log_.resets; }

 private:
  Log& log_;
  const uint16_t sizes_[2] = {256, 64};
};

constexpr uint8_t kReady = kPciDriverReady;

struct Guest {
  std::unique_ptr<GuestMemory> memory = GuestMemory::create({.size_bytes = 2 * kMiB}).value();
  Log log;
};

struct Driver : private Guest, PciDriver {
  Driver() : PciDriver(std::make_unique<TestDevice>(Guest::log), *memory) {}
  using Guest::log;

  void set_queue(uint16_t queue, uint16_t size, uint64_t at) {
    PciDriver::set_queue(
        queue,
        {.size = size, .descriptors = at, .driver_ring = at + 0x1000, .device_ring = at + 0x2000});
  }
  // The whole of it: both queues, a vector for each, MSI-X on.
  void start() {
    negotiate();
    set_vectors(3);
    write<uint16_t>(common + 0x10, 0);
    for (uint16_t queue = 0; queue < 2; ++queue) {
      set_queue(queue, 64, 0x10000U + 0x10000U * queue);
      write<uint16_t>(common + 0x1a, queue + 1);
    }
    go();
  }
};

bool is_signalled(int fd) {
  pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, 0) == 1;
}

}  // namespace

TEST_CASE("the function is a modern virtio device and nothing else") {
  Driver driver;
  CHECK(driver.config<uint32_t>(0) == 0x10421af4);
  CHECK(driver.config<uint8_t>(8) == 1);
  CHECK(driver.config<uint16_t>(0x2c) == 0x1af4);
  CHECK(driver.config<uint16_t>(0x2e) >= 0x40);
  CHECK(driver.config<uint8_t>(0x3d) == 0);                        // no INTx
  CHECK((driver.config<uint16_t>(driver.msix + 2) & 0x7ff) == 2);  // three vectors
}

TEST_CASE("a driver that does as section 3.1.1 says gets a working device") {
  Driver driver;
  CHECK(driver.read<uint16_t>(driver.common + 0x12) == 2);
  driver.write<uint32_t>(driver.common + 0x00, 1);
  CHECK(driver.read<uint32_t>(driver.common + 0x04) == 1);
  driver.write<uint32_t>(driver.common + 0x00, 2);
  CHECK(driver.read<uint32_t>(driver.common + 0x04) == 0);
  driver.start();
  CHECK(driver.status() == (kReady | kVirtioFeaturesOk | kVirtioDriverOk));
  CHECK(driver.log.activations == 1);
  CHECK(driver.log.features == kVirtioFVersion1);
  REQUIRE(driver.log.queues.size() == 2);
  CHECK(driver.log.queues[1].enabled);
  CHECK(driver.log.queues[1].size == 64);
  CHECK(driver.log.queues[1].descriptors == 0x20000);
  CHECK(driver.log.queues[1].driver_ring == 0x21000);
  CHECK(driver.log.queues[1].device_ring == 0x22000);
}

TEST_CASE("features that were not offered, or without VERSION_1, are not agreed") {
  for (const uint64_t features :
       std::vector<uint64_t>{kVirtioFVersion1 | 1, kFeature, uint64_t{0}, ~uint64_t{0}}) {
    Driver driver;
    driver.negotiate(features);
    CHECK(driver.status() == kReady);
    driver.go();
    CHECK(driver.log.activations == 0);
    CHECK((driver.status() & kVirtioDriverOk) == 0);
  }
}

TEST_CASE("features cannot change once they are agreed") {
  Driver driver;
  driver.negotiate();
  driver.set_features(kVirtioFVersion1 | kFeature);
  driver.go();
  CHECK(driver.log.features == kVirtioFVersion1);
}

TEST_CASE("a queue's registers are frozen from DRIVER_OK to reset") {
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

TEST_CASE("a queue that was not enabled cannot be enabled after DRIVER_OK") {
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

TEST_CASE("a queue size that is no power of two, zero or too large is not taken") {
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

TEST_CASE("a queue that is not there has size zero and takes nothing") {
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

TEST_CASE("a vector beyond the table reads back as none, and signals nothing") {
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

TEST_CASE("queue and configuration interrupts go to their vectors and set the ISR") {
  Driver driver;
  driver.start();
  driver.log.interrupt->signal_queue(1);
  CHECK(driver.events.take_signals(2) == 1);
  CHECK(driver.events.take_signals(1) == 0);
  CHECK(driver.read<uint8_t>(driver.isr) == 1);
  CHECK(driver.read<uint8_t>(driver.isr) == 0);
  const auto generation = driver.read<uint8_t>(driver.common + 0x15);
  driver.log.interrupt->signal_config();
  CHECK(driver.events.take_signals(0) == 1);
  CHECK(driver.read<uint8_t>(driver.isr) == 2);
  CHECK(driver.read<uint8_t>(driver.common + 0x15) != generation);
}

TEST_CASE("doorbells are there from DRIVER_OK to reset, and move with the BAR") {
  Driver driver;
  CHECK(driver.events.doorbells.empty());
  driver.start();
  REQUIRE(driver.events.doorbells.size() == 2);
  const uint64_t first = driver.bar + driver.notify;
  CHECK(driver.events.doorbells.at(first) == driver.log.queues[0].kick_fd);
  CHECK(driver.events.doorbells.at(first + 4) == driver.log.queues[1].kick_fd);
  driver.set_config<uint32_t>(0x10, 0xd0000000);
  REQUIRE(driver.events.doorbells.size() == 2);
  CHECK(driver.events.doorbells.contains(0xd0000000 + driver.notify));
  driver.set_config<uint16_t>(0x04, 0);
  CHECK(driver.events.doorbells.empty());
  driver.set_config<uint16_t>(0x04, 6);
  CHECK(driver.events.doorbells.size() == 2);
  driver.bar = 0xd0000000;
  driver.set_status(0);
  CHECK(driver.events.doorbells.empty());
}

TEST_CASE("a doorbell that comes as a write kicks its queue, and one out of range nothing") {
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

TEST_CASE("status 0 resets the device and forgets everything the driver set") {
  Driver driver;
  driver.start();
  driver.write<uint16_t>(driver.notify, 0);
  driver.set_status(0);
  CHECK(driver.log.resets == 1);
  CHECK(driver.status() == 0);
  CHECK_FALSE(is_signalled(driver.log.queues[0].kick_fd));
  driver.select(0);
  CHECK(driver.read<uint16_t>(driver.common + 0x18) == 256);
  CHECK(driver.read<uint16_t>(driver.common + 0x1a) == kVirtioNoVector);
  CHECK(driver.read<uint16_t>(driver.common + 0x1c) == 0);
  CHECK(driver.read<uint64_t>(driver.common + 0x20) == 0);
  driver.start();
  CHECK(driver.log.activations == 2);
}

TEST_CASE("DRIVER_OK counts once, and status bits cannot be taken back") {
  Driver driver;
  driver.start();
  driver.go();
  driver.set_status(kVirtioAcknowledge);
  driver.go();
  CHECK(driver.log.activations == 1);
  CHECK(driver.status() == (kReady | kVirtioFeaturesOk | kVirtioDriverOk));
}

TEST_CASE("DRIVER_OK without agreed features does not start the device") {
  Driver driver;
  driver.set_status(kReady | kVirtioDriverOk);
  CHECK(driver.log.activations == 0);
  CHECK(driver.status() == kReady);
}

TEST_CASE("a device that cannot start, or gives up, asks for a reset and interrupts") {
  Driver refused;
  refused.log.refuse = true;
  refused.start();
  CHECK((refused.status() & kVirtioNeedsReset) != 0);
  CHECK(refused.events.take_signals(0) == 1);

  Driver driver;
  driver.start();
  driver.log.interrupt->needs_reset();
  CHECK((driver.status() & kVirtioNeedsReset) != 0);
  CHECK(driver.events.take_signals(0) == 1);
  driver.set_status(0);
  CHECK(driver.status() == 0);
}

TEST_CASE("a driver cannot set NEEDS_RESET itself") {
  Driver driver;
  driver.set_status(kReady | kVirtioNeedsReset);
  CHECK(driver.status() == kReady);
}

TEST_CASE("device configuration is reached at any width") {
  Driver driver;
  CHECK(driver.read<uint32_t>(driver.device) == 0xa3a2a1a0);
  CHECK(driver.read<uint8_t>(driver.device + 7) == 0xa7);
  CHECK(driver.read<uint32_t>(driver.device + 0xffc) == 0);
  driver.write<uint16_t>(driver.device + 2, 0x1234);
  CHECK(driver.log.config_written == 0x1234);
}

TEST_CASE("the window in configuration space reads and writes the BAR") {
  Driver driver;
  driver.set_config<uint8_t>(driver.window + 4, 0);
  driver.set_config<uint32_t>(driver.window + 8, driver.device + 4);
  driver.set_config<uint32_t>(driver.window + 12, 2);
  CHECK(driver.config<uint16_t>(driver.window + 16) == 0xa5a4);
  driver.set_config<uint32_t>(driver.window + 8, driver.common + 0x14);
  driver.set_config<uint32_t>(driver.window + 12, 1);
  driver.set_config<uint8_t>(driver.window + 16, kVirtioAcknowledge);
  CHECK(driver.status() == kVirtioAcknowledge);
  CHECK(driver.config<uint8_t>(driver.window + 16) == kVirtioAcknowledge);
  driver.set_config<uint8_t>(driver.window + 16, 0);
  CHECK(driver.log.resets == 1);
}

TEST_CASE("a window of odd length, offset or BAR shows nothing and changes nothing") {
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

TEST_CASE("registers written at another width than theirs keep their value") {
  Driver driver;
  driver.negotiate();
  driver.select(0);
  driver.write<uint8_t>(driver.common + 0x18, 16);
  driver.write<uint32_t>(driver.common + 0x18, 16);
  driver.write<uint16_t>(driver.common + 0x20, 0xffff);
  driver.write<uint32_t>(driver.common + 0x22, 0xffffffff);
  driver.write<uint64_t>(driver.common + 0x24, ~0ULL);
  driver.write<uint16_t>(driver.common + 0x14, 0);
  driver.write<uint32_t>(driver.common + 0x14, 0);
  CHECK(driver.read<uint16_t>(driver.common + 0x18) == 256);
  CHECK(driver.read<uint64_t>(driver.common + 0x20) == 0);
  CHECK((driver.status() & kVirtioFeaturesOk) != 0);
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
