// PciBus: bus 0 of the machine: its functions, reached by ports 0xcf8-0xcff and by ECAM.
// Sources: PCI 3.0, section 3.2.2.3.2; PCI Express Base 5.0, section 7.2.2.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

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
  // In `slot`, which is free, or the lowest free one; returns which. What is `removable` can leave
  // while the guest runs.
  Result<unsigned> add(std::unique_ptr<PciFunction> function, bool removable = false,
                       std::optional<unsigned> slot = {});

  // The same, in the lowest free slot, for a function that comes while the vCPUs run. Any thread.
  Result<unsigned> plug(std::unique_ptr<PciFunction> function, bool removable = true);
  // The guest has let go of the function: from now on all of it reads as all ones. False, and
  // nothing happens, when the slot has no removable function, or it has been ejected before. Any
  // thread.
  bool eject(unsigned slot);
  // Whether there is a removable function, ejected or not. Any thread.
  bool removable(unsigned slot);
  // Takes a removable function away, ejected or not; its slot is free. nullptr when there is none.
  // Only while no vCPU runs or serves an exit.
  std::unique_ptr<PciFunction> take(unsigned slot);

  BusHandler& ports() { return ports_; }
  BusHandler& ecam() { return ecam_; }

 private:
  struct Slot {
    std::unique_ptr<PciFunction> function;
    bool removable = false;
    bool ejected = false;
  };
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
  Result<unsigned> free_slot() const;

  Bus& mmio_;
  uint64_t next_bar_;
  std::mutex mutex_;  // configuration accesses and changes of the slots, one at a time
  std::array<Slot, kSlots> slots_;  // guarded by mutex_ once the vCPUs run
  Ports ports_{*this};
  Ecam ecam_{*this};
};

}  // namespace plumb
