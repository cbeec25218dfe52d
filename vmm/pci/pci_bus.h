// PciBus: bus 0 of the machine: its functions, reached by ports 0xcf8-0xcff and by ECAM.
// Sources: PCI 3.0, section 3.2.2.3.2; PCI Express Base 5.0, section 7.2.2.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/result.h"
#include "vmm/bus.h"
#include "vmm/pci/function.h"

namespace plumb {

class PciBus {
 public:
  static constexpr unsigned kSlots = 32;

  // BARs are mapped in `mmio`, which outlives this.
  explicit PciBus(Bus& mmio);

  // Both before the vCPUs run. Every function is function 0 of its slot.
  Result<> add_at(unsigned slot, std::unique_ptr<PciFunction> function);
  // In the lowest free slot.
  Result<> add(std::unique_ptr<PciFunction> function);

  BusHandler& ports() { return ports_; }
  BusHandler& ecam() { return ecam_; }

 private:
  // The address of a register: what both mechanisms come down to.
  struct Place {
    uint32_t bus = 0;
    uint32_t slot = 0;
    uint32_t function = 0;
    uint32_t offset = 0;
  };
  class Ports : public BusHandler {
   public:
    explicit Ports(PciBus& bus) : bus_(bus) {}
    void read(uint64_t offset, std::span<std::byte> data) override;
    void write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    PciBus& bus_;
    uint32_t address_ = 0;  // guarded by bus_.mutex_
  };
  class Ecam : public BusHandler {
   public:
    explicit Ecam(PciBus& bus) : bus_(bus) {}
    void read(uint64_t offset, std::span<std::byte> data) override;
    void write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    PciBus& bus_;
  };

  static Place from_address(uint32_t address, uint64_t port_offset);
  static Place from_ecam(uint64_t offset);
  // mutex_ is held.
  void read(const Place& place, std::span<std::byte> data);
  void write(const Place& place, std::span<const std::byte> data);
  PciFunction* find(const Place& place) const;

  Bus& mmio_;
  uint64_t next_bar_;
  std::mutex mutex_;  // configuration accesses, one at a time
  std::array<std::unique_ptr<PciFunction>, kSlots> functions_;
  Ports ports_{*this};
  Ecam ecam_{*this};
};

}  // namespace plumb
