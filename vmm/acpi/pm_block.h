// PmBlock: the ACPI fixed hardware: power button, sleep, PM timer and general-purpose events, where
// an ICH9 has them. Sources: ACPI 6.5, section 4.8; Intel ICH9 data sheet, section 13.8.3.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "vmm/bus.h"

namespace plumb {

// Offsets from the base.
inline constexpr uint16_t kPm1Event = 0x0;
inline constexpr uint16_t kPm1Control = 0x4;
inline constexpr uint16_t kPmTimer = 0x8;
inline constexpr uint16_t kGpe0 = 0x20;
inline constexpr uint16_t kGpe0Size = 16;
// Events of the GPE block; \_GPE in the DSDT has a method for each.
inline constexpr unsigned kGpePciHotplug = 1;
// SLP_TYP of \_S5 in the DSDT.
inline constexpr uint16_t kSleepTypeS5 = 0;
inline constexpr uint64_t kPmTimerHz = 3579545;

class PmBlock : public BusHandler {
 public:
  struct Config {
    std::function<void()> power_off;    // the guest entered S5; on a vCPU thread
    std::function<void(bool)> set_sci;  // drives the level-triggered SCI; any thread
    std::function<uint64_t()> now_ns;   // a clock that does not jump
  };
  explicit PmBlock(Config config) : config_(std::move(config)) {}

  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

  // Any thread.
  void press_power_button();
  // Sets the status of a general-purpose event, which the guest clears. Any thread.
  void raise_event(unsigned event);

 private:
  uint8_t read_byte(uint64_t offset) const;
  void write_byte(uint64_t offset, uint8_t value);
  void update_sci();

  const Config config_;
  mutable std::mutex mutex_;  // guards all below; held while the SCI is driven, so in order
  uint16_t status_ = 0;
  uint16_t enable_ = 0;
  uint16_t control_ = 0;
  uint8_t gpe_status_[kGpe0Size / 2] = {};
  uint8_t gpe_enable_[kGpe0Size / 2] = {};
  bool sci_ = false;
};

}  // namespace plumb
