#include "vmm/acpi/pm_block.h"

#include <iterator>

#include "base/check.h"

namespace plumb {
namespace {

constexpr uint16_t kPowerButton = 1U << 8U;  // of status and enable
// Enable bits a guest may set: timer, global lock, power button, RTC. Of these only the power
// button ever raises its status here: Linux and Windows read the timer and ask for no interrupt.
constexpr uint16_t kEnableBits = 0x0521;
constexpr uint16_t kSciEnabled = 1U << 0U;  // of control: there is no legacy mode to leave
constexpr uint16_t kSleepEnable = 1U << 13U;
constexpr uint16_t kSleepTypeShift = 10;
// The GPE block is half status, half enable bits (ACPI 6.5, 4.8.4.1).
constexpr uint64_t kGpeEnable = kGpe0 + kGpe0Size / 2;
constexpr uint64_t kGpeEnd = kGpe0 + kGpe0Size;

uint8_t low_byte(unsigned value) { return static_cast<uint8_t>(value); }

uint16_t with_byte(uint16_t value, bool high, uint8_t byte) {
  return high ? static_cast<uint16_t>((value & 0x00ffU) | (byte << 8U))
              : static_cast<uint16_t>((value & 0xff00U) | byte);
}

}  // namespace

void PmBlock::read(uint64_t offset, std::span<std::byte> data) {
  if (offset >= kPmTimer && offset < kPmTimer + 4) {
    // Taken once, so that the bytes of one access belong together.
    constexpr uint64_t kSecond = 1000000000;
    const uint64_t ns = config_.now_ns();
    const auto ticks =
        static_cast<uint32_t>(ns / kSecond * kPmTimerHz + ns % kSecond * kPmTimerHz / kSecond);
    store_access(data, static_cast<uint64_t>(ticks) >> (8 * (offset - kPmTimer)));
    return;
  }
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) data[i] = std::byte{read_byte(offset + i)};
}

uint8_t PmBlock::read_byte(uint64_t offset) const {
  switch (offset) {
    case kPm1Event:
    case kPm1Event + 1:
      return low_byte(status_ >> (8 * offset));
    case kPm1Event + 2:
    case kPm1Event + 3:
      return low_byte(enable_ >> (8 * (offset - 2)));
    case kPm1Control:
      return low_byte(control_ | kSciEnabled);
    case kPm1Control + 1:
      return low_byte(control_ >> 8U);
    default:
      break;
  }
  if (offset >= kGpeEnable && offset < kGpeEnd) return gpe_enable_[offset - kGpeEnable];
  if (offset >= kGpe0 && offset < kGpeEnable) return gpe_status_[offset - kGpe0];
  return 0;
}

void PmBlock::write(uint64_t offset, std::span<const std::byte> data) {
  bool power_off = false;
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < data.size(); ++i) {
      write_byte(offset + i, static_cast<uint8_t>(data[i]));
    }
    if ((control_ & kSleepEnable) != 0) {
      // SLP_EN is write only. Sleep types other than S5 are not in the DSDT, and do nothing.
      control_ &= static_cast<uint16_t>(~kSleepEnable);
      power_off = ((control_ >> kSleepTypeShift) & 7U) == kSleepTypeS5;
    }
    update_sci();
  }
  if (power_off) config_.power_off();
}

void PmBlock::write_byte(uint64_t offset, uint8_t value) {
  switch (offset) {
    case kPm1Event:  // status bits are cleared by writing ones
    case kPm1Event + 1:
      status_ &= static_cast<uint16_t>(~(value << (8 * offset)));
      return;
    case kPm1Event + 2:
    case kPm1Event + 3:
      enable_ = with_byte(enable_, offset == kPm1Event + 3, value) & kEnableBits;
      return;
    case kPm1Control:
    case kPm1Control + 1:
      control_ = with_byte(control_, offset == kPm1Control + 1, value);
      return;
    default:
      break;
  }
  if (offset >= kGpeEnable && offset < kGpeEnd) gpe_enable_[offset - kGpeEnable] = value;
  if (offset >= kGpe0 && offset < kGpeEnable) {
    gpe_status_[offset - kGpe0] &= static_cast<uint8_t>(~value);
  }
}

void PmBlock::update_sci() {
  bool sci = (status_ & enable_) != 0;
  for (size_t i = 0; i < std::size(gpe_status_); ++i) sci |= (gpe_status_[i] & gpe_enable_[i]) != 0;
  if (sci == sci_) return;
  sci_ = sci;
  config_.set_sci(sci);
}

void PmBlock::raise_event(unsigned event) {
  ENSURE(event / 8 < std::size(gpe_status_));
  const std::lock_guard lock(mutex_);
  gpe_status_[event / 8] |= static_cast<uint8_t>(1U << event % 8);
  update_sci();
}

void PmBlock::press_power_button() {
  const std::lock_guard lock(mutex_);
  status_ |= kPowerButton;
  update_sci();
}

}  // namespace plumb
