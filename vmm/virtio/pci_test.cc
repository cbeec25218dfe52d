// The driver's side here is written out by offsets, as virtio 1.2, section 4.1.4 has them.
#include "vmm/virtio/pci.h"

#include <catch2/catch.hpp>

#include "tests/fakes/pci_fixture.h"

using namespace plumb;

namespace {

using Driver = PciFixture;
constexpr uint64_t kFeature = kTestFeature;
constexpr uint8_t kReady = kPciDriverReady;

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
