#include "vmm/acpi/pm_block.h"

#include <catch2/catch.hpp>

using namespace plumb;

namespace {

struct Block {
  int power_offs = 0;
  bool sci = false;
  int sci_changes = 0;
  uint64_t now_ns = 0;
  PmBlock pm{{.power_off = [this] { ++power_offs; },
              .set_sci =
                  [this](bool asserted) {
                    sci = asserted;
                    ++sci_changes;
                  },
              .now_ns = [this] { return now_ns; }}};

  uint32_t read(uint64_t offset, size_t width) {
    std::byte data[4] = {};
    pm.read(offset, {data, width});
    return static_cast<uint32_t>(load_access({data, width}));
  }
  void write(uint64_t offset, size_t width, uint32_t value) {
    std::byte data[4];
    store_le(data, value);
    pm.write(offset, {data, width});
  }
};

constexpr uint32_t kButton = 1U << 8U;

}  // namespace

TEST_CASE("SLP_EN with the type of S5 powers off, once for each write") {
  Block block;
  block.write(kPm1Control, 2, 1U << 13U);
  CHECK(block.power_offs == 1);
  CHECK((block.read(kPm1Control, 2) & (1U << 13U)) == 0);
  block.write(kPm1Control, 2, 0);
  CHECK(block.power_offs == 1);
}

TEST_CASE("other sleep types do nothing") {
  Block block;
  for (uint32_t type = 1; type < 8; ++type) block.write(kPm1Control, 2, 1U << 13U | type << 10U);
  CHECK(block.power_offs == 0);
}

TEST_CASE("the machine is in ACPI mode from the start") {
  Block block;
  CHECK((block.read(kPm1Control, 2) & 1U) == 1);
  block.write(kPm1Control, 2, 0);
  CHECK((block.read(kPm1Control, 2) & 1U) == 1);
}

TEST_CASE("the power button raises the SCI when enabled, until its status is cleared") {
  Block block;
  block.write(kPm1Event + 2, 2, kButton);
  block.pm.press_power_button();
  CHECK(block.sci);
  CHECK(block.read(kPm1Event, 2) == kButton);
  block.write(kPm1Event, 2, 0);  // writing zero clears nothing
  CHECK(block.sci);
  block.write(kPm1Event, 2, kButton);
  CHECK_FALSE(block.sci);
  CHECK(block.read(kPm1Event, 2) == 0);
}

TEST_CASE("a power button pressed before the guest listens is seen when it does") {
  Block block;
  block.pm.press_power_button();
  CHECK_FALSE(block.sci);
  block.write(kPm1Event, 4, kButton << 16U);
  CHECK(block.sci);
}

TEST_CASE("pressing again while pressed drives the SCI no more") {
  Block block;
  block.write(kPm1Event + 2, 2, kButton);
  block.pm.press_power_button();
  block.pm.press_power_button();
  CHECK(block.sci_changes == 1);
}

TEST_CASE("the PM timer counts at 3.579545 MHz in 32 bits, also after years") {
  Block block;
  block.now_ns = 1000000000;
  CHECK(block.read(kPmTimer, 4) == 3579545);
  block.now_ns = 2000000000;
  CHECK(block.read(kPmTimer, 4) == 7159090);
  CHECK(block.read(kPmTimer + 2, 2) == 7159090 >> 16U);
  constexpr uint64_t kTenYears = 315360000;
  block.now_ns = kTenYears * 1000000000;
  CHECK(block.read(kPmTimer, 4) == static_cast<uint32_t>(kTenYears * kPmTimerHz));
}

TEST_CASE("a general-purpose event raises the SCI when enabled, until its status is cleared") {
  Block block;
  constexpr uint32_t kEvent = 1U << kGpePciHotplug;
  block.pm.raise_event(kGpePciHotplug);  // before the guest listens
  CHECK_FALSE(block.sci);
  CHECK(block.read(kGpe0, 4) == kEvent);
  block.write(kGpe0 + kGpe0Size / 2, 1, kEvent);
  CHECK(block.sci);
  block.write(kGpe0, 1, 0xff & ~kEvent);
  CHECK(block.sci);
  block.write(kGpe0, 1, kEvent);
  CHECK_FALSE(block.sci);
  block.pm.raise_event(kGpePciHotplug);
  CHECK(block.sci);
  block.write(kGpe0 + kGpe0Size / 2, 1, 0);
  CHECK_FALSE(block.sci);
}

TEST_CASE("GPE enable bits are kept, a guest sets no status, and the rest reads as zero") {
  Block block;
  block.write(kGpe0, 4, 0xffffffff);
  CHECK(block.read(kGpe0, 4) == 0);
  block.write(kGpe0 + kGpe0Size / 2, 4, 0x12345678);
  CHECK(block.read(kGpe0 + kGpe0Size / 2, 4) == 0x12345678);
  CHECK_FALSE(block.sci);
  block.write(0x7e, 4, 0xffffffff);
  CHECK(block.read(0x7e, 4) == 0);
}
