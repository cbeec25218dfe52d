// Rtc: the MC146818 clock with its CMOS memory, at ports 0x70 and 0x71, as PC firmware and kernels
// expect it. Source: Motorola MC146818 data sheet; Intel ICH9 data sheet, section 13.6.
//
// It shows the host's time in UTC, plus what the guest has set it away from that. It has no
// alarm, periodic or update interrupt.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>
#include <mutex>

#include "vmm/bus.h"

namespace plumb {

class Rtc : public BusHandler {
 public:
  struct Config {
    uint64_t memory_bytes = 0;  // of the guest, in all
    unsigned vcpus = 1;
    std::function<time_t()> now;  // seconds since 1970
  };
  explicit Rtc(Config config);

  // Two ports: index and data.
  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  uint8_t read_cell(uint8_t index);
  void write_cell(uint8_t index, uint8_t value);
  void latch_time();
  void set_time();
  uint8_t encode(int value) const;
  int decode(uint8_t value) const;

  const Config config_;
  std::mutex mutex_;  // guards all below
  uint8_t index_ = 0;
  time_t offset_seconds_ = 0;
  std::array<uint8_t, 128> cells_{};
};

}  // namespace plumb
