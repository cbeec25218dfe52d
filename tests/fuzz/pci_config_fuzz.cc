// Fuzzes the configuration space of a virtio-pci function, by ECAM and by ports, with accesses of
// any width anywhere on the bus. What must hold: what software may not change stays, capabilities
// are the list they were, registers answer at the BAR's address while memory decoding is on and
// nowhere else, doorbells are there just then, and the window shows the BAR.
#include <fuzzer/FuzzedDataProvider.h>

#include <optional>

#include "base/log.h"
#include "tests/fakes/pci_driver.h"
#include "tests/fuzz/inline_blk.h"
#include "vmm/pci/chipset.h"

namespace {

using namespace plumb;

constexpr uint32_t kBarBytes = 0x8000;
constexpr int kMaxSteps = 40;
constexpr uint16_t kQueues = InlineBlk::kSizes.size();
constexpr uint32_t kFunction = PciDriver::kSlot << 15U;  // in ECAM
using Space = std::array<std::byte, PciFunction::kConfigSize>;

const GuestMemory& ram() {
  static const std::unique_ptr<GuestMemory> memory =
      GuestMemory::create({.size_bytes = 2U << 20U}).value();
  return *memory;
}

struct Round {
  explicit Round(FuzzedDataProvider& data)
      : input(data), driver(std::make_unique<InlineBlk>(state, disk), ram()) {
    ENSURE(driver.pci.add_at(0, std::make_unique<HostBridge>()).ok());
    ENSURE(driver.pci.add_at(kLpcSlot, std::make_unique<LpcBridge>()).ok());
    if (first == Space{}) first = snapshot();
  }

  // All of it but the data of the window, whose reads act on the BAR.
  Space snapshot() {
    Space space{};
    const uint32_t data = driver.window + 16;
    driver.pci.ecam().read(kFunction, std::span(space).first(data));
    driver.pci.ecam().read(kFunction | (data + 4), std::span(space).subspan(data + 4));
    return space;
  }
  uint32_t dword(uint32_t slot, uint32_t offset) {
    std::array<std::byte, 4> data{};
    driver.pci.ecam().read(slot << 15U | offset, data);
    return load_le<uint32_t>(data.data());
  }

  void step() {
    switch (input.ConsumeIntegralInRange<int>(0, 7)) {
      case 0:
        any_access();
        break;
      case 1:
        by_ports();
        break;
      case 2:
        driver.set_config<uint16_t>(4, input.ConsumeIntegral<uint16_t>());
        break;
      case 3:
        move_bar();
        break;
      case 4:
        size_bar();
        break;
      case 5:
        driver.set_config<uint16_t>(driver.msix + 2, input.ConsumeIntegral<uint16_t>());
        ENSURE((driver.config<uint16_t>(driver.msix + 2) & 0x3fff) == kQueues);
        break;
      case 6:
        use_window();
        break;
      default:
        if (mapped() && input.ConsumeBool()) {
          driver.bar = bar_address();
          driver.negotiate();
          driver.go();
        }
        break;
    }
    check_mapping();
  }

  void any_access() {
    std::array<std::byte, 8> value{};
    store_le(value.data(), input.ConsumeIntegral<uint64_t>());
    const auto width = input.ConsumeIntegralInRange<size_t>(1, 8);
    // Mostly the function's own 256 bytes, now and then anywhere on any bus.
    uint64_t at = kFunction | input.ConsumeIntegral<uint8_t>();
    if (input.ConsumeIntegralInRange<int>(0, 7) == 0) at = input.ConsumeIntegral<uint32_t>();
    at %= layout::kEcamSize;
    if (input.ConsumeBool()) {
      driver.pci.ecam().read(at, std::span(value).first(width));
    } else {
      driver.pci.ecam().write(at, std::span<const std::byte>(value).first(width));
    }
  }

  void by_ports() {
    std::array<std::byte, 8> value{};
    const auto at = input.ConsumeIntegral<uint8_t>();
    store_le<uint32_t>(value.data(), 0x80000000U | PciDriver::kSlot << 11U | (at & 0xfcU));
    driver.pci.ports().write(0, std::span<const std::byte>(value).first(4));
    const auto width = input.ConsumeIntegralInRange<size_t>(1, 4);
    store_le(value.data(), input.ConsumeIntegral<uint64_t>());
    if (input.ConsumeBool()) {
      driver.pci.ports().write(4U + at % 4U, std::span<const std::byte>(value).first(width));
      return;
    }
    if ((at & 0xfcU) == driver.window + 16) return;
    std::array<std::byte, 4> same{};
    driver.pci.ports().read(4, std::span(value).first(4));
    driver.pci.ecam().read(kFunction | (at & 0xfcU), same);
    ENSURE(std::equal(same.begin(), same.end(), value.begin()));
  }

  void move_bar() {
    const auto low = input.ConsumeIntegral<uint32_t>();
    const auto high = input.ConsumeIntegral<uint32_t>();
    driver.set_config<uint32_t>(0x10, low);
    driver.set_config<uint32_t>(0x14, high);
    ENSURE(driver.config<uint32_t>(0x10) == ((low & ~(kBarBytes - 1)) | 4));
    ENSURE(driver.config<uint32_t>(0x14) == high);
  }

  // As software finds out the size (PCI 3.0, 6.2.5.1).
  void size_bar() {
    const uint64_t before = bar_address();
    driver.set_config<uint32_t>(0x10, ~0U);
    driver.set_config<uint32_t>(0x14, ~0U);
    ENSURE(~(bar_address() & ~15ULL) + 1 == kBarBytes);
    driver.set_config<uint32_t>(0x10, static_cast<uint32_t>(before));
    driver.set_config<uint32_t>(0x14, static_cast<uint32_t>(before >> 32U));
    ENSURE(bar_address() == before);
  }

  void use_window() {
    const auto bar = static_cast<uint8_t>(input.ConsumeIntegralInRange<int>(0, 15) / 15);
    const auto region = input.ConsumeIntegralInRange<uint32_t>(0, 8);
    const auto at = region * 0x1000 + input.ConsumeIntegralInRange<uint32_t>(0, 0x40);
    constexpr std::array<uint32_t, 6> kLengths{1, 2, 4, 4, 3, 0xffffffff};
    const uint32_t length = input.PickValueInArray(kLengths);
    driver.set_config<uint8_t>(driver.window + 4, bar);
    driver.set_config<uint32_t>(driver.window + 8, at);
    driver.set_config<uint32_t>(driver.window + 12, length);
    if (input.ConsumeBool()) {
      driver.set_config<uint32_t>(driver.window + 16, input.ConsumeIntegral<uint32_t>());
      return;
    }
    if (at - at % 0x1000 == driver.isr) return;  // reading twice is not reading the same
    const auto shown = driver.config<uint32_t>(driver.window + 16);
    const bool good = bar == 0 && length <= 4 && length != 3 && at % length == 0 && at < kBarBytes;
    if (!good) ENSURE(shown == 0);
    if (!good || !mapped()) return;
    std::array<std::byte, 4> direct{};
    driver.mmio.read(bar_address() + at, std::span(direct).first(length));
    ENSURE(shown == load_le<uint32_t>(direct.data()));
  }

  bool mapped() { return (driver.config<uint16_t>(4) & 2) != 0; }
  uint64_t bar_address() {
    return (driver.config<uint64_t>(0x10)) & ~static_cast<uint64_t>(kBarBytes - 1);
  }
  // As the bus has it, whatever the state of the device: the vectors' masks are never zero bytes.
  bool answers(uint64_t address) {
    std::array<std::byte, 2> data{};
    driver.mmio.read(address + common_cfg::kNumQueues, data);
    return load_le<uint16_t>(data.data()) == kQueues;
  }

  void check_mapping() {
    const uint64_t address = bar_address();
    const bool on = mapped();
    ENSURE(answers(address) == on);
    if (on) ENSURE(!answers(address + kBarBytes) && !answers(address - kBarBytes));
    ENSURE(driver.events.doorbells.size() == (on && state.active ? kQueues : 0));
    if (!driver.events.doorbells.empty()) {
      ENSURE(driver.events.doorbells.begin()->first == address + driver.notify);
    }
  }

  void check_space() {
    const Space now = snapshot();
    for (uint32_t at = 0; at < now.size(); ++at) {
      ENSURE(((now[at] ^ first[at]) & ~writable(at)) == std::byte{0});
    }
  }

  // What software may change, from the specifications and not from the function.
  std::byte writable(uint32_t at) const {
    if (at == 0x04) return std::byte{0x47};
    if (at == 0x05) return std::byte{0x05};
    if (at == 0x0c || at == 0x3c || (at >= 0x12 && at < 0x18)) return std::byte{0xff};
    if (at == 0x11) return std::byte{0x80};
    if (at == driver.msix + 3) return std::byte{0xc0};
    if (at == driver.window + 4) return std::byte{0xff};
    if (at >= driver.window + 8 && at < driver.window + 16) return std::byte{0xff};
    return std::byte{0};
  }

  // The bridges tell where ECAM and the ACPI registers are; those cannot be moved.
  void check_bridges() {
    ENSURE(dword(0, 0) == 0x29c08086 && dword(kLpcSlot, 0) == 0x29188086);
    ENSURE(dword(0, 0x60) == (layout::kEcam | 1) && dword(0, 0x64) == 0);
    ENSURE(dword(kLpcSlot, 0x40) == (layout::kPmBase | 1));
  }

  FuzzedDataProvider& input;
  std::array<std::byte, 4096> disk{};
  InlineBlkState state;
  PciDriver driver;
  static inline Space first{};  // the same in every round
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const bool quiet = (log::configure("fuzz", log::Level::kError), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, bytes);
  Round round(input);
  for (int steps = 0; steps < kMaxSteps && input.remaining_bytes() > 0; ++steps) round.step();
  round.check_space();
  round.check_bridges();
  return 0;
}
