#include "vmm/pci/function.h"

#include <bit>

#include "base/check.h"

namespace plumb {
namespace {

constexpr uint32_t kCommand = 0x04;
constexpr uint32_t kStatus = 0x06;
constexpr uint32_t kClassAndRevision = 0x08;
constexpr uint32_t kCacheLine = 0x0c;
constexpr uint32_t kBar0 = 0x10;
constexpr uint32_t kSubsystemVendor = 0x2c;
constexpr uint32_t kCapabilities = 0x34;
constexpr uint32_t kInterruptLine = 0x3c;

constexpr uint16_t kCommandMemory = 1U << 1U;
// I/O, memory, bus master, parity, SERR, INTx disable.
constexpr uint16_t kCommandWritable = 0x0547;
constexpr uint16_t kStatusCapabilities = 1U << 4U;
constexpr uint32_t kBar64Bit = 2U << 1U;

uint32_t bar_offset(unsigned index) { return kBar0 + 4 * index; }

}  // namespace

PciFunction::PciFunction(const Identity& identity) {
  set<uint16_t>(0, identity.vendor);
  set<uint16_t>(2, identity.device);
  // Memory decoding is on from the start, as firmware leaves it with BARs that it has assigned.
  set<uint16_t>(kCommand, kCommandMemory, kCommandWritable);
  set<uint32_t>(kClassAndRevision, identity.class_code << 8U | identity.revision);
  set<uint8_t>(kCacheLine, 0, 0xff);
  set<uint16_t>(kSubsystemVendor, identity.subsystem_vendor);
  set<uint16_t>(kSubsystemVendor + 2, identity.subsystem);
  set<uint8_t>(kInterruptLine, 0, 0xff);  // pin 0: no INTx
}

uint8_t PciFunction::add_capability(uint8_t id, std::span<const std::byte> body) {
  const uint8_t at = next_capability_at_;
  ENSURE(at + 2 + body.size() <= kConfigSize);
  set<uint8_t>(at, id);
  std::copy(body.begin(), body.end(), config_.begin() + at + 2);
  set<uint8_t>(last_capability_ == 0 ? kCapabilities : last_capability_ + 1U, at);
  set<uint16_t>(kStatus, kStatusCapabilities);
  last_capability_ = at;
  next_capability_at_ = static_cast<uint8_t>((at + 2 + body.size() + 3) & ~size_t{3});
  return at;
}

void PciFunction::add_bar(unsigned index, uint64_t size, bool is_64, BusHandler& handler) {
  ENSURE(std::has_single_bit(size) && size >= 16 && index + (is_64 ? 1 : 0) < 6);
  bars_.push_back({.index = index, .size = size, .is_64 = is_64, .handler = &handler});
  // That the address bits below the size stay zero is how software finds the size (6.2.5.1).
  const uint64_t mask = ~(size - 1);
  set<uint32_t>(bar_offset(index), is_64 ? kBar64Bit : 0, static_cast<uint32_t>(mask));
  if (is_64) set<uint32_t>(bar_offset(index + 1), 0, static_cast<uint32_t>(mask >> 32U));
}

void PciFunction::set_writable(uint32_t offset, std::span<const std::byte> mask) {
  ENSURE(offset + mask.size() <= kConfigSize);
  std::copy(mask.begin(), mask.end(), writable_.begin() + offset);
}

void PciFunction::read_config(uint32_t offset, std::span<std::byte> data) {
  config_will_be_read(offset, data.size());
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = offset + i < kConfigSize ? config_[offset + i] : std::byte{0};
  }
}

void PciFunction::write_config(uint32_t offset, std::span<const std::byte> data) {
  for (size_t i = 0; i < data.size() && offset + i < kConfigSize; ++i) {
    std::byte& cell = config_[offset + i];
    const std::byte mask = writable_[offset + i];
    cell = (cell & ~mask) | (data[i] & mask);
  }
  if (offset < kBar0 + 6 * 4 && offset + data.size() > kCommand) update_mapping();
  config_written(offset, data.size());
}

uint64_t PciFunction::bar_address(const Bar& bar) const {
  uint64_t address = get<uint32_t>(bar_offset(bar.index));
  if (bar.is_64) address |= static_cast<uint64_t>(get<uint32_t>(bar_offset(bar.index + 1))) << 32U;
  return address & ~(bar.size - 1);
}

bool PciFunction::assign_bars(Bus& mmio, uint64_t& next, uint64_t end) {
  mmio_ = &mmio;
  for (const Bar& bar : bars_) {
    const uint64_t address = (next + bar.size - 1) & ~(bar.size - 1);
    if (address > end || bar.size > end - address) return false;
    next = address + bar.size;
    const uint32_t flags = bar.is_64 ? kBar64Bit : 0;
    store_le<uint32_t>(&config_[bar_offset(bar.index)], static_cast<uint32_t>(address) | flags);
  }
  update_mapping();
  return true;
}

void PciFunction::leave_bars_unassigned(Bus& mmio) {
  mmio_ = &mmio;
  store_le<uint16_t>(&config_[kCommand], 0);
}

void PciFunction::disconnect() {
  store_le<uint16_t>(&config_[kCommand], 0);
  update_mapping();
  disconnected();
}

void PciFunction::update_mapping() {
  if (mmio_ == nullptr) return;
  const bool enabled = (get<uint16_t>(kCommand) & kCommandMemory) != 0;
  for (Bar& bar : bars_) {
    const uint64_t address = bar_address(bar);
    if (bar.mapped == enabled && (!enabled || bar.mapped_at == address)) continue;
    if (bar.mapped) mmio_->remove(bar.mapped_at, *bar.handler);
    if (enabled) mmio_->add(address, bar.size, *bar.handler);
    bar.mapped = enabled;
    bar.mapped_at = address;
    bar_moved(bar.index, enabled, address);
  }
}

}  // namespace plumb
