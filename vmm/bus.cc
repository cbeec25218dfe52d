#include "vmm/bus.h"

#include <algorithm>
#include <mutex>

namespace plumb {

void Bus::add(uint64_t start, uint64_t size, BusHandler& handler) {
  const std::unique_lock lock(mutex_);
  ranges_.push_back({start, size, &handler});
}

void Bus::remove(uint64_t start, const BusHandler& handler) {
  const std::unique_lock lock(mutex_);
  const auto found = std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& range) {
    return range.start == start && range.handler == &handler;
  });
  if (found != ranges_.end()) ranges_.erase(found);
}

Bus::Range Bus::find(uint64_t address) const {
  const std::shared_lock lock(mutex_);
  for (const Range& range : ranges_) {
    // Written so that a range at the very end of the address space does not overflow.
    if (address >= range.start && address - range.start < range.size) return range;
  }
  return {};
}

void Bus::read(uint64_t address, std::span<std::byte> data) const {
  std::fill(data.begin(), data.end(), std::byte{0xff});
  const Range range = find(address);
  if (range.handler != nullptr) range.handler->read(address - range.start, data);
}

void Bus::write(uint64_t address, std::span<const std::byte> data) const {
  const Range range = find(address);
  if (range.handler != nullptr) range.handler->write(address - range.start, data);
}

}  // namespace plumb
