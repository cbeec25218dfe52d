// Slots of a running machine, with a guest that reads and writes the registers as dsdt.asl does,
// and one that does what it must not.
#include "vmm/acpi/pci_hotplug.h"

#include <catch2/catch.hpp>

#include "tests/fakes/pci_fixture.h"
#include "vmm/pci/chipset.h"

using namespace plumb;

namespace {

// A bus with its bridges, a device that stays in slot 1 and a removable one in slot 2.
struct Board {
  int notifications = 0;
  std::vector<unsigned> ejected;
  TestDeviceLog logs[4];
  std::unique_ptr<GuestMemory> memory = GuestMemory::create({.size_bytes = 2 * kMiB}).value();
  FakeEvents events;
  Bus mmio;
  PciHotplug hotplug{{.notify = [this] { ++notifications; },
                      .eject =
                          [this](unsigned slot) {
                            if (pci.eject(slot)) ejected.push_back(slot);
                          }}};
  PciBus pci{mmio};

  Board() {
    REQUIRE(pci.add_at(0, std::make_unique<HostBridge>()));
    REQUIRE(pci.add_at(kLpcSlot, std::make_unique<LpcBridge>()));
    REQUIRE(pci.add(device(logs[0])).value() == 1);
    REQUIRE(pci.add(device(logs[1]), true).value() == 2);
  }
  std::unique_ptr<PciFunction> device(TestDeviceLog& log) {
    return VirtioPci::create(std::make_unique<TestDevice>(log), *memory, events).value();
  }

  uint32_t registers(uint64_t offset) {
    std::byte data[4] = {};
    hotplug.read(offset, data);
    return load_le<uint32_t>(data);
  }
  void set_registers(uint64_t offset, uint32_t value) {
    std::byte data[4];
    store_le(data, value);
    hotplug.write(offset, data);
  }
  uint32_t config(unsigned slot, uint32_t offset) {
    std::byte data[4];
    std::fill(std::begin(data), std::end(data), std::byte{0xff});
    pci.ecam().read(slot << 15U | offset, data);
    return load_le<uint32_t>(data);
  }
  void set_config(unsigned slot, uint32_t offset, uint32_t value) {
    std::byte data[4];
    store_le(data, value);
    pci.ecam().write(slot << 15U | offset, data);
  }
  uint32_t bar(uint64_t address) {
    std::byte data[4];
    mmio.read(address, data);
    return load_le<uint32_t>(data);
  }
  // As an operating system gives the function of a slot its address and starts it.
  void assign(unsigned slot, uint32_t address) {
    set_config(slot, 0x10, address);
    set_config(slot, 0x14, 0);
    set_config(slot, 0x04, 2);
  }
};

constexpr uint32_t kNobody = 0xffffffff;
constexpr uint32_t kBlk = 0x10421af4;
constexpr uint32_t kAddress = 0xd0000000;
constexpr uint32_t kDeviceConfig = 0x2000;  // where the BAR shows it

}  // namespace

TEST_CASE("a plugged function is told of, has no address until the guest gives it one, and works") {
  Board board;
  const unsigned slot = board.pci.plug(board.device(board.logs[2])).value();
  CHECK(slot == 3);
  board.hotplug.tell_plugged(slot);
  CHECK(board.notifications == 1);
  CHECK(board.registers(PciHotplug::kPlugged) == 1U << 3U);
  board.set_registers(PciHotplug::kPlugged, 1U << 3U);
  CHECK(board.registers(PciHotplug::kPlugged) == 0);
  CHECK(board.config(slot, 0) == kBlk);
  CHECK((board.config(slot, 0x04) & 2U) == 0);
  CHECK((board.config(slot, 0x10) & ~0xfU) == 0);
  board.assign(slot, kAddress);
  CHECK(board.bar(kAddress + kDeviceConfig) == 0xa3a2a1a0);
}

TEST_CASE("what the guest lets go of reads as all ones at once, and its slot is used again") {
  Board board;
  const unsigned slot = board.pci.plug(board.device(board.logs[2])).value();
  board.assign(slot, kAddress);
  board.hotplug.ask_to_eject(slot);
  CHECK(board.notifications == 1);
  CHECK(board.registers(PciHotplug::kAsked) == 1U << 3U);
  CHECK(board.config(slot, 0) == kBlk);
  board.set_registers(PciHotplug::kEject, 1U << 3U);
  CHECK(board.ejected == std::vector<unsigned>{3});
  CHECK(board.registers(PciHotplug::kAsked) == 0);
  for (int round = 0; round < 2; ++round) {
    CHECK(board.config(slot, 0) == kNobody);
    CHECK(board.config(slot, 0x10) == kNobody);
    CHECK(board.bar(kAddress + kDeviceConfig) == kNobody);
    board.assign(slot, kAddress);  // nobody listens
  }
  // Ejected, it still has the slot: its requests may be on their way.
  CHECK(board.pci.plug(board.device(board.logs[3])).value() == 4);
  REQUIRE(board.pci.take(slot) != nullptr);
  CHECK(board.logs[2].resets == 1);
  CHECK(board.config(slot, 0) == kNobody);
  CHECK(board.pci.plug(board.device(board.logs[2])).value() == slot);
  CHECK(board.config(slot, 0) == kBlk);
}

TEST_CASE("the last slot is given and no more") {
  Board board;
  for (unsigned slot = 3; slot < kLpcSlot; ++slot) {
    REQUIRE(board.pci.plug(board.device(board.logs[2])).value() == slot);
  }
  Result<unsigned> none = board.pci.plug(board.device(board.logs[2]));
  REQUIRE_FALSE(none.ok());
  CHECK(none.error().kind == ErrorKind::kUsage);
  board.pci.take(17);
  CHECK(board.pci.plug(board.device(board.logs[2])).value() == 17);
}

TEST_CASE("hostile: ejecting bridges, empty slots and devices that stay changes nothing") {
  Board board;
  board.assign(1, kAddress);
  board.set_registers(PciHotplug::kEject, ~(1U << 2U));
  CHECK(board.ejected.empty());
  CHECK(board.config(0, 0) != kNobody);
  CHECK(board.config(kLpcSlot, 0) != kNobody);
  CHECK(board.config(1, 0) == kBlk);
  CHECK(board.bar(kAddress + kDeviceConfig) == 0xa3a2a1a0);
  for (const unsigned slot : {0U, 1U, 3U, 31U, 32U, 0xffffffffU}) {
    CHECK_FALSE(board.pci.removable(slot));
    CHECK_FALSE(board.pci.eject(slot));
    CHECK(board.pci.take(slot) == nullptr);
  }
}

TEST_CASE("hostile: ejecting unasked and again tells of it once") {
  Board board;
  for (int round = 0; round < 3; ++round) board.set_registers(PciHotplug::kEject, kNobody);
  CHECK(board.ejected == std::vector<unsigned>{2});
  CHECK(board.pci.removable(2));
}

TEST_CASE("hostile: accesses of odd width or place do nothing") {
  Board board;
  board.hotplug.tell_plugged(2);
  std::byte ones[8];
  std::fill(std::begin(ones), std::end(ones), std::byte{0xff});
  for (uint64_t offset = 0; offset < PciHotplug::kSize; ++offset) {
    for (const size_t width : {1U, 2U, 8U}) {
      board.hotplug.write(offset, std::span(ones).first(width));
      std::byte read[8] = {};
      board.hotplug.read(offset, std::span(read).first(width));
      CHECK(load_access(std::span(read).first(width)) == 0);
    }
  }
  board.set_registers(0xc, kNobody);
  CHECK(board.registers(0xc) == 0);
  CHECK(board.ejected.empty());
  CHECK(board.registers(PciHotplug::kPlugged) == 1U << 2U);
}

TEST_CASE(
    "hostile: a vector unmasked while its function is taken away loses its route all the same") {
  Board board;
  TestDeviceLog& log = board.logs[1];
  board.assign(2, kAddress);
  // MSI-X on, vector 0 routed: by the BAR, as a vCPU that is late still can.
  uint32_t msix = board.config(2, 0x34) & 0xffU;
  while ((board.config(2, msix) & 0xffU) != kPciCapMsix) msix = board.config(2, msix) >> 8U & 0xffU;
  board.set_config(2, msix, uint32_t{kMsixEnable} << 16U);
  std::byte open[4] = {};
  board.mmio.write(kAddress + kPciMsixTable + 12, open);
  REQUIRE(board.events.routes.size() == 1);
  CHECK(board.events.routes[0].fd >= 0);
  board.set_registers(PciHotplug::kEject, 1U << 2U);
  CHECK(board.events.routes[0].fd == -1);
  REQUIRE(board.pci.take(2) != nullptr);
  CHECK(log.resets == 1);
}
