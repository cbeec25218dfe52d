// The two ways a PC program resets the machine, besides a triple fault.
#pragma once

#include <functional>

#include "vmm/bus.h"

namespace plumb {

// Reset control register, port 0xcf9 (Intel ICH9 data sheet, section 13.7.5). The guest wants a
// reset when it sets bit 2, whatever kind the others ask for.
class ResetRegister : public BusHandler {
 public:
  explicit ResetRegister(std::function<void()> reset) : reset_(std::move(reset)) {}
  void read(uint64_t /*offset*/, std::span<std::byte> data) override { data[0] = std::byte{0}; }
  void write(uint64_t /*offset*/, std::span<const std::byte> data) override {
    if ((data[0] & std::byte{4}) != std::byte{0}) reset_();
  }

 private:
  const std::function<void()> reset_;
};

// Port 0x64 of a keyboard controller that is not there, but for its command 0xfe, which pulses
// the CPU's reset line. Reads as idle, so that nobody waits for it.
class KeyboardReset : public BusHandler {
 public:
  explicit KeyboardReset(std::function<void()> reset) : reset_(std::move(reset)) {}
  void read(uint64_t /*offset*/, std::span<std::byte> data) override { data[0] = std::byte{0}; }
  void write(uint64_t /*offset*/, std::span<const std::byte> data) override {
    if (data[0] == std::byte{0xfe}) reset_();
  }

 private:
  const std::function<void()> reset_;
};

}  // namespace plumb
