#include "vmm/machine.h"

#include <ctime>

#include "base/file.h"
#include "vmm/layout.h"
#include "vmm/pci/chipset.h"
#include "vmm/virtio/pci.h"

namespace plumb {
namespace {

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000U + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(Config config) {
  UniqueFd serial_interrupt = TRY(make_eventfd());
  TRY(config.events->add_edge(serial_interrupt.get(), layout::kSerialIrq));
  std::unique_ptr<Machine> machine(new Machine(std::move(config), std::move(serial_interrupt)));
  machine->connect();
  TRY(machine->pci_.add_at(0, std::make_unique<HostBridge>()));
  TRY(machine->pci_.add_at(kLpcSlot, std::make_unique<LpcBridge>()));
  return machine;
}

Machine::Machine(Config config, UniqueFd serial_interrupt)
    : config_(std::move(config)),
      serial_interrupt_(std::move(serial_interrupt)),
      reset_register_([this] { config_.stop(StopReason::kReset); }),
      keyboard_reset_([this] { config_.stop(StopReason::kReset); }),
      pm_({.power_off = [this] { config_.stop(StopReason::kPowerOff); },
           .set_sci =
               [this](bool asserted) { config_.events->set_level(layout::kSciIrq, asserted); },
           .now_ns = monotonic_ns}),
      rtc_({.memory_bytes = config_.memory->size_bytes(),
            .vcpus = config_.vcpus,
            .now = [] { return ::time(nullptr); }}),
      serial_(config_.serial, [this] { signal_eventfd(serial_interrupt_.get()); }),
      hotplug_({.notify = [this] { pm_.raise_event(kGpePciHotplug); },
                .eject =
                    [this](unsigned slot) {
                      if (pci_.eject(slot)) config_.ejected(slot);
                    }}) {}

void Machine::connect() {
  // A byte written to 0xcf9 is a reset, although that port is in the middle of PCI's dword.
  ports_.add(layout::kResetPort, 1, reset_register_);
  ports_.add(layout::kPciConfigPort, 8, pci_.ports());
  ports_.add(layout::kSerialPort, 8, serial_);
  ports_.add(layout::kKeyboardPort, 1, keyboard_reset_);
  ports_.add(layout::kRtcPort, 2, rtc_);
  ports_.add(layout::kPmBase, layout::kPmSize, pm_);
  ports_.add(layout::kPciHotplugPort, PciHotplug::kSize, hotplug_);
  mmio_.add(layout::kEcam, layout::kEcamSize, pci_.ecam());
}

Result<unsigned> Machine::add_virtio(std::unique_ptr<VirtioDevice> device, bool removable,
                                     std::optional<unsigned> slot) {
  return pci_.add(TRY(VirtioPci::create(std::move(device), *config_.memory, *config_.events)),
                  removable, slot);
}

Result<unsigned> Machine::plug(std::unique_ptr<VirtioDevice> device, bool removable) {
  const unsigned slot = TRY(pci_.plug(
      TRY(VirtioPci::create(std::move(device), *config_.memory, *config_.events)), removable));
  hotplug_.tell_plugged(slot);
  return slot;
}

Result<> Machine::ask_to_eject(unsigned slot) {
  if (!pci_.removable(slot)) {
    return make_error(ErrorKind::kNotFound, "slot {} has no device that can be removed", slot);
  }
  hotplug_.ask_to_eject(slot);
  return {};
}

std::unique_ptr<PciFunction> Machine::unplug(unsigned slot) {
  hotplug_.forget(slot);
  return pci_.take(slot);
}

}  // namespace plumb
