// PciFunction: one PCI function's configuration space (type 0 header) and base address registers.
// Source: PCI Local Bus Specification 3.0, chapter 6.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/bus.h"

namespace plumb {

class PciFunction {
 public:
  static constexpr uint32_t kConfigSize = 256;
  struct Identity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint8_t revision = 0;
    uint32_t class_code = 0;  // base class, subclass, interface: 24 bits
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
  };

  explicit PciFunction(const Identity& identity);
  virtual ~PciFunction() = default;
  PciFunction(const PciFunction&) = delete;
  PciFunction& operator=(const PciFunction&) = delete;

  // --- For PciBus, which lets in one thread at a time ---

  // Any offset and width; what is outside the configuration space reads as zero.
  void read_config(uint32_t offset, std::span<std::byte> data);
  void write_config(uint32_t offset, std::span<const std::byte> data);

  // Gives each BAR an address from `next` on, which moves up, and maps it in `mmio`. False when
  // one would end beyond `end`.
  bool assign_bars(Bus& mmio, uint64_t& next, uint64_t end);
  // Instead, for a function that comes while the guest runs: as after a PCI reset no BAR has an
  // address and memory decoding is off; the guest assigns them.
  void leave_bars_unassigned(Bus& mmio);
  // Takes it from the bus's `mmio`, and frees what it has of the machine. Harmless when done
  // before. On a vCPU thread, where others may still be in its registers, or while all are out.
  void disconnect();

 protected:
  // For constructors.
  uint8_t add_capability(uint8_t id, std::span<const std::byte> body);
  // A memory BAR of a power of two bytes, at least 16; a 64-bit one takes `index` + 1 as well.
  void add_bar(unsigned index, uint64_t size, bool is_64, BusHandler& handler);
  void set_writable(uint32_t offset, std::span<const std::byte> mask);
  template <typename T>
  void set(uint32_t offset, T value, T writable = 0) {
    store_le<T>(&config_[offset], value);
    store_le<T>(&writable_[offset], writable);
  }
  template <typename T>
  T get(uint32_t offset) const {
    return load_le<T>(&config_[offset]);
  }

  // Before the guest reads, and after it wrote, [offset, offset + length) of the space.
  virtual void config_will_be_read(uint32_t /*offset*/, size_t /*length*/) {}
  virtual void config_written(uint32_t /*offset*/, size_t /*length*/) {}
  virtual void disconnected() {}
  // The BAR now answers at `address`, or (nothing) nowhere.
  virtual void bar_moved(unsigned /*index*/, bool /*mapped*/, uint64_t /*address*/) {}

 private:
  struct Bar {
    unsigned index = 0;
    uint64_t size = 0;
    bool is_64 = false;
    BusHandler* handler = nullptr;
    bool mapped = false;
    uint64_t mapped_at = 0;
  };
  uint64_t bar_address(const Bar& bar) const;
  void update_mapping();

  std::array<std::byte, kConfigSize> config_{};
  std::array<std::byte, kConfigSize> writable_{};
  std::vector<Bar> bars_;
  uint8_t last_capability_ = 0;
  uint8_t next_capability_at_ = 0x40;
  Bus* mmio_ = nullptr;
};

}  // namespace plumb
