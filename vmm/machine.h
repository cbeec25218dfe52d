// Machine: the Q35-compatible board around the vCPUs: buses, chipset, clock, UART, PCI devices.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/acpi/pci_hotplug.h"
#include "vmm/acpi/pm_block.h"
#include "vmm/bus.h"
#include "vmm/char_backend.h"
#include "vmm/guest_memory.h"
#include "vmm/kvm_events.h"
#include "vmm/pci/pci_bus.h"
#include "vmm/reset_ports.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"
#include "vmm/stop_reason.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

class Machine {
 public:
  struct Config {
    const GuestMemory* memory = nullptr;  // outlives the machine, as do the next two
    KvmEvents* events = nullptr;
    CharBackend* serial = nullptr;  // may be nullptr
    unsigned vcpus = 1;
    std::function<void(StopReason)> stop;   // the guest asked for it; on a vCPU thread
    std::function<void(unsigned)> ejected;  // the guest let go of a slot; on a vCPU thread
  };
  static Result<std::unique_ptr<Machine>> create(Config config);

  const Bus& ports() const { return ports_; }
  const Bus& mmio() const { return mmio_; }

  // Before the vCPUs run, or (plug) while they do; the slot it got, as PciBus has it.
  Result<unsigned> add_virtio(std::unique_ptr<VirtioDevice> device, bool removable,
                              std::optional<unsigned> slot);
  Result<unsigned> plug(std::unique_ptr<VirtioDevice> device, bool removable);
  // Error kNotFound without a removable device.
  Result<> ask_to_eject(unsigned slot);
  // The removable device of the slot, taken off the bus; nullptr without one. Only while no vCPU
  // runs or serves an exit.
  std::unique_ptr<PciFunction> unplug(unsigned slot);
  void press_power_button() { pm_.press_power_button(); }

 private:
  Machine(Config config, UniqueFd serial_interrupt);
  void connect();

  const Config config_;
  UniqueFd serial_interrupt_;
  Bus ports_;
  Bus mmio_;
  ResetRegister reset_register_;
  KeyboardReset keyboard_reset_;
  PmBlock pm_;
  Rtc rtc_;
  Serial serial_;
  PciHotplug hotplug_;
  PciBus pci_{mmio_};
};

}  // namespace plumb
