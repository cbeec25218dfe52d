#include "vmm/pci/pci_bus.h"

#include <utility>

#include "vmm/layout.h"

namespace plumb {
namespace {

constexpr uint32_t kAddressEnable = 1U << 31U;
constexpr uint64_t kDataOffset = 4;  // port 0xcfc

}  // namespace

PciBus::PciBus(Bus& mmio) : mmio_(mmio), next_bar_(layout::kPciWindow) {}

Result<> PciBus::add_at(unsigned slot, std::unique_ptr<PciFunction> function) {
  ENSURE(slot < kSlots && slots_[slot].function == nullptr);
  if (!function->assign_bars(mmio_, next_bar_, layout::kPciWindowEnd)) {
    return failed("the devices' registers do not fit between {:#x} and {:#x}; give the VM fewer",
                  layout::kPciWindow, layout::kPciWindowEnd);
  }
  slots_[slot].function = std::move(function);
  return {};
}

Result<unsigned> PciBus::free_slot() const {
  for (unsigned slot = 1; slot < kSlots; ++slot) {
    if (slots_[slot].function == nullptr) return slot;
  }
  return usage_error("the VM has more devices than its PCI bus has slots ({} are for devices)",
                     kSlots - 2);
}

Result<unsigned> PciBus::add(std::unique_ptr<PciFunction> function, bool removable,
                             std::optional<unsigned> slot) {
  if (!slot) slot = TRY(free_slot());
  TRY(add_at(*slot, std::move(function)));
  slots_[*slot].removable = removable;
  return *slot;
}

Result<unsigned> PciBus::plug(std::unique_ptr<PciFunction> function, bool removable) {
  const std::lock_guard lock(mutex_);
  const unsigned slot = TRY(free_slot());
  function->leave_bars_unassigned(mmio_);
  slots_[slot] = {.function = std::move(function), .removable = removable, .ejected = false};
  return slot;
}

bool PciBus::eject(unsigned slot) {
  const std::lock_guard lock(mutex_);
  if (slot >= kSlots || !slots_[slot].removable || slots_[slot].ejected) return false;
  slots_[slot].ejected = true;
  slots_[slot].function->disconnect();
  return true;
}

bool PciBus::removable(unsigned slot) {
  const std::lock_guard lock(mutex_);
  return slot < kSlots && slots_[slot].removable;
}

std::unique_ptr<PciFunction> PciBus::take(unsigned slot) {
  const std::lock_guard lock(mutex_);
  if (slot >= kSlots || !slots_[slot].removable) return nullptr;
  // Once more when ejected: a vCPU that was in its registers may have routed an interrupt again.
  slots_[slot].function->disconnect();
  return std::exchange(slots_[slot], {}).function;
}

PciFunction* PciBus::find(const Place& place) const {
  if (place.bus != 0 || place.function != 0) return nullptr;
  const Slot& slot = slots_[place.slot];
  return slot.ejected ? nullptr : slot.function.get();
}

// Nobody there: the read ends in a master abort, which gives all ones, as `data` already is.
void PciBus::read(const Place& place, std::span<std::byte> data) {
  PciFunction* function = find(place);
  if (function != nullptr) function->read_config(place.offset, data);
}

void PciBus::write(const Place& place, std::span<const std::byte> data) {
  PciFunction* function = find(place);
  if (function != nullptr) function->write_config(place.offset, data);
}

PciBus::Place PciBus::from_address(uint32_t address, uint64_t port_offset) {
  return {.bus = (address >> 16U) & 0xffU,
          .slot = (address >> 11U) & 0x1fU,
          .function = (address >> 8U) & 7U,
          .offset = (address & 0xfcU) + static_cast<uint32_t>(port_offset - kDataOffset)};
}

PciBus::Place PciBus::from_ecam(uint64_t offset) {
  const auto low = static_cast<uint32_t>(offset);
  return {.bus = (low >> 20U) & 0xffU,
          .slot = (low >> 15U) & 0x1fU,
          .function = (low >> 12U) & 7U,
          .offset = low & 0xfffU};
}

void PciBus::Ports::read(uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(bus_.mutex_);
  if (offset < kDataOffset) {
    store_access(data, static_cast<uint64_t>(address_) >> (8 * offset));
    return;
  }
  if ((address_ & kAddressEnable) == 0 || offset + data.size() > kDataOffset + 4) return;
  bus_.read(from_address(address_, offset), data);
}

void PciBus::Ports::write(uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(bus_.mutex_);
  if (offset < kDataOffset) {
    // Only a full dword sets the address; narrower writes belong to other devices.
    if (offset == 0 && data.size() == 4) address_ = static_cast<uint32_t>(load_access(data));
    return;
  }
  if ((address_ & kAddressEnable) == 0 || offset + data.size() > kDataOffset + 4) return;
  bus_.write(from_address(address_, offset), data);
}

void PciBus::Ecam::read(uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(bus_.mutex_);
  bus_.read(from_ecam(offset), data);
}

void PciBus::Ecam::write(uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(bus_.mutex_);
  bus_.write(from_ecam(offset), data);
}

}  // namespace plumb
