#include "vmm/acpi/pci_hotplug.h"

namespace plumb {

void PciHotplug::read(uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  uint32_t value = 0;
  if (offset == kPlugged) value = plugged_;
  if (offset == kAsked) value = asked_;
  store_access(data, data.size() == sizeof(value) ? value : 0);
}

void PciHotplug::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != sizeof(uint32_t)) return;
  const auto bits = static_cast<uint32_t>(load_access(data));
  {
    const std::lock_guard lock(mutex_);
    if (offset == kPlugged || offset == kEject) plugged_ &= ~bits;
    if (offset == kAsked || offset == kEject) asked_ &= ~bits;
  }
  if (offset != kEject) return;
  for (unsigned slot = 0; slot < 32; ++slot) {
    if ((bits >> slot & 1U) != 0) config_.eject(slot);
  }
}

void PciHotplug::tell_plugged(unsigned slot) {
  {
    const std::lock_guard lock(mutex_);
    plugged_ |= 1U << slot;
  }
  config_.notify();
}

void PciHotplug::ask_to_eject(unsigned slot) {
  {
    const std::lock_guard lock(mutex_);
    asked_ |= 1U << slot;
  }
  config_.notify();
}

void PciHotplug::forget(unsigned slot) {
  const std::lock_guard lock(mutex_);
  plugged_ &= ~(1U << slot);
  asked_ &= ~(1U << slot);
}

}  // namespace plumb
