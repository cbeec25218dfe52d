#include "vmm/pci/function.h"

#include <catch2/catch.hpp>

#include "vmm/layout.h"
#include "vmm/pci/chipset.h"
#include "vmm/pci/pci_bus.h"

using namespace plumb;

namespace {

class Registers : public BusHandler {
 public:
  void read(uint64_t /*offset*/, std::span<std::byte> data) override { data[0] = std::byte{0x77}; }
  void write(uint64_t /*offset*/, std::span<const std::byte> /*data*/) override {}
};

class TestFunction : public PciFunction {
 public:
  explicit TestFunction(bool is_64 = true)
      : PciFunction({.vendor = 0x1234, .device = 0x5678, .class_code = 0xff0000}) {
    add_bar(0, 0x4000, is_64, registers);
    add_capability(0x09, std::array<std::byte, 3>{});
    add_capability(0x11, std::array<std::byte, 10>{});
  }
  Registers registers;
};

struct Machine {
  Bus mmio;
  PciBus pci{mmio};

  uint64_t ecam(unsigned slot, uint32_t offset, size_t width) {
    std::byte data[8];
    std::fill_n(data, 8, std::byte{0xff});
    pci.ecam().read(slot << 15U | offset, {data, width});
    return load_access({data, width});
  }
  void set_ecam(unsigned slot, uint32_t offset, size_t width, uint64_t value) {
    std::byte data[8];
    store_le(data, value);
    pci.ecam().write(slot << 15U | offset, {data, width});
  }
  uint64_t port(uint64_t offset, size_t width) {
    std::byte data[4];
    std::fill_n(data, 4, std::byte{0xff});
    pci.ports().read(offset, {data, width});
    return load_access({data, width});
  }
  void set_port(uint64_t offset, size_t width, uint32_t value) {
    std::byte data[4];
    store_le(data, value);
    pci.ports().write(offset, {data, width});
  }
  bool answers(uint64_t address) {
    std::byte data{0xff};
    mmio.read(address, {&data, 1});
    return data == std::byte{0x77};
  }
};

constexpr uint64_t kWindow = layout::kPciWindow;

}  // namespace

TEST_CASE("functions are found through ports and ECAM alike, and nobody is elsewhere") {
  Machine machine;
  REQUIRE(machine.pci.add_at(0, std::make_unique<HostBridge>()));
  REQUIRE(machine.pci.add_at(kLpcSlot, std::make_unique<LpcBridge>()));
  REQUIRE(machine.pci.add(std::make_unique<TestFunction>()));
  CHECK(machine.ecam(0, 0, 4) == 0x29c08086);
  CHECK(machine.ecam(1, 0, 4) == 0x56781234);
  CHECK(machine.ecam(31, 0, 4) == 0x29188086);
  CHECK(machine.ecam(2, 0, 4) == 0xffffffff);
  machine.set_port(0, 4, 0x80000000 | 1U << 11U);
  CHECK(machine.port(4, 4) == 0x56781234);
  CHECK(machine.port(6, 2) == 0x5678);
  CHECK(machine.port(7, 1) == 0x56);
  machine.set_port(0, 4, 1U << 11U);  // not enabled
  CHECK(machine.port(4, 4) == 0xffffffff);
  machine.set_port(0, 4, 0x80000000 | 1U << 11U | 1U << 8U);  // function 1
  CHECK(machine.port(4, 4) == 0xffffffff);
  machine.set_port(0, 4, 0x80010000);  // bus 1
  CHECK(machine.port(4, 4) == 0xffffffff);
}

TEST_CASE("only a dword sets the address port, and data accesses stay in their dword") {
  Machine machine;
  REQUIRE(machine.pci.add_at(0, std::make_unique<HostBridge>()));
  machine.set_port(0, 4, 0x80000000);
  machine.set_port(0, 2, 0x1234);
  machine.set_port(1, 1, 0x06);
  CHECK(machine.port(0, 4) == 0x80000000);
  CHECK(machine.port(6, 4) == 0xffffffff);
  machine.set_port(7, 4, 0);
}

TEST_CASE("the chipset says where ECAM and the ACPI registers are, whatever the guest writes") {
  Machine machine;
  REQUIRE(machine.pci.add_at(0, std::make_unique<HostBridge>()));
  REQUIRE(machine.pci.add_at(kLpcSlot, std::make_unique<LpcBridge>()));
  machine.set_ecam(0, 0x60, 4, 0xc0000001);
  machine.set_ecam(31, 0x40, 4, 0xb001);
  CHECK(machine.ecam(0, 0x60, 4) == 0xe0000001);
  CHECK(machine.ecam(31, 0x40, 4) == 0x601);
  CHECK((machine.ecam(31, 0x44, 1) & 0x80) != 0);
}

TEST_CASE("BARs are assigned in the window, answer there, and tell their size") {
  Machine machine;
  REQUIRE(machine.pci.add(std::make_unique<TestFunction>()));
  REQUIRE(machine.pci.add(std::make_unique<TestFunction>(false)));
  CHECK(machine.ecam(1, 0x10, 4) == (kWindow | 4));
  CHECK(machine.ecam(2, 0x10, 4) == kWindow + 0x4000);
  CHECK(machine.answers(kWindow));
  CHECK(machine.answers(kWindow + 0x3fff));
  machine.set_ecam(1, 0x10, 4, 0xffffffff);
  machine.set_ecam(1, 0x14, 4, 0xffffffff);
  CHECK(machine.ecam(1, 0x10, 4) == 0xffffc004);
  CHECK(machine.ecam(1, 0x14, 4) == 0xffffffff);
  machine.set_ecam(2, 0x10, 4, 0xffffffff);
  CHECK(machine.ecam(2, 0x10, 4) == 0xffffc000);
  CHECK(machine.ecam(2, 0x14, 4) == 0);
}

TEST_CASE("a BAR moves with its register, and goes with memory decoding") {
  Machine machine;
  REQUIRE(machine.pci.add(std::make_unique<TestFunction>()));
  machine.set_ecam(1, 0x10, 4, 0xc8000000);
  CHECK_FALSE(machine.answers(kWindow));
  CHECK(machine.answers(0xc8000000));
  machine.set_ecam(1, 0x14, 4, 0x12);
  CHECK_FALSE(machine.answers(0xc8000000));
  CHECK(machine.answers(0x12c8000000));
  machine.set_ecam(1, 0x04, 2, 0);
  CHECK_FALSE(machine.answers(0x12c8000000));
  machine.set_ecam(1, 0x10, 8, kWindow);
  CHECK_FALSE(machine.answers(kWindow));
  machine.set_ecam(1, 0x04, 2, 6);
  CHECK(machine.answers(kWindow));
}

TEST_CASE("capabilities are linked, and the status register says that there are some") {
  Machine machine;
  REQUIRE(machine.pci.add(std::make_unique<TestFunction>()));
  CHECK((machine.ecam(1, 0x06, 2) & 0x10) != 0);
  const auto first = static_cast<uint32_t>(machine.ecam(1, 0x34, 1));
  CHECK(machine.ecam(1, first, 1) == 0x09);
  const auto second = static_cast<uint32_t>(machine.ecam(1, first + 1, 1));
  CHECK(second % 4 == 0);
  CHECK(machine.ecam(1, second, 1) == 0x11);
  CHECK(machine.ecam(1, second + 1, 1) == 0);
}

TEST_CASE("accesses of odd widths and offsets, and beyond the space, harm nothing") {
  Machine machine;
  REQUIRE(machine.pci.add(std::make_unique<TestFunction>()));
  for (uint32_t offset = 0; offset < 0x1000; ++offset) {
    for (const size_t width : {1U, 2U, 3U, 4U, 8U}) {
      machine.ecam(1, offset, width);
      machine.set_ecam(1, offset, width, ~0ULL);
    }
  }
  CHECK(machine.ecam(1, 0, 4) == 0x56781234);
  CHECK(machine.ecam(1, 0x100, 4) == 0);
  CHECK(machine.ecam(1, 0xffc, 4) == 0);
}

TEST_CASE("a bus has room for thirty devices, and an error for one more") {
  Machine machine;
  REQUIRE(machine.pci.add_at(0, std::make_unique<HostBridge>()));
  REQUIRE(machine.pci.add_at(kLpcSlot, std::make_unique<LpcBridge>()));
  for (int i = 0; i < 30; ++i) REQUIRE(machine.pci.add(std::make_unique<TestFunction>()));
  Result<unsigned> one_more = machine.pci.add(std::make_unique<TestFunction>());
  REQUIRE_FALSE(one_more);
  CHECK(one_more.error().kind == ErrorKind::kUsage);
}
