// PciHotplug: the register block by which the guest's ACPI code (dsdt.asl) learns what came into
// the slots of PCI bus 0, and what is asked to leave, and says what it has let go of. A block of
// our own, told of by a GPE (pm_block.h). Notify and _EJ0: ACPI 6.5, sections 5.6.6 and 6.3.3.
//
// Dwords, of which bit N is slot N; other accesses do nothing:
//   kPlugged  read: a function has come; a written one clears its bit
//   kAsked    read: the function is asked to leave; a written one clears its bit
//   kEject    written: the guest has let go of the function; reads as zero
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "vmm/bus.h"

namespace plumb {

class PciHotplug : public BusHandler {
 public:
  static constexpr uint64_t kPlugged = 0x0;
  static constexpr uint64_t kAsked = 0x4;
  static constexpr uint64_t kEject = 0x8;
  static constexpr uint64_t kSize = 0x10;

  struct Config {
    std::function<void()> notify;         // has the guest look at the registers; any thread
    std::function<void(unsigned)> eject;  // the guest wrote a slot to kEject; on a vCPU thread
  };
  explicit PciHotplug(Config config) : config_(std::move(config)) {}

  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

  // A function has come into `slot`. Any thread.
  void tell_plugged(unsigned slot);
  // Asks the guest to eject `slot`. Any thread.
  void ask_to_eject(unsigned slot);
  // Nothing is asked of `slot` any more. Any thread.
  void forget(unsigned slot);

 private:
  const Config config_;
  std::mutex mutex_;  // guards all below
  uint32_t plugged_ = 0;
  uint32_t asked_ = 0;
};

}  // namespace plumb
