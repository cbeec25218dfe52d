// Bus: which handler answers at which address; one for ports, one for MMIO.
//
// Lookups come from all vCPU threads, changes (a BAR that moves) from any one of them. Handlers
// are registered before the vCPUs run and outlive the bus's users; one that is unmapped may
// still be in a call that began before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <shared_mutex>
#include <span>
#include <vector>

#include "base/endian.h"

namespace plumb {

class BusHandler {
 public:
  virtual ~BusHandler() = default;
  // `offset` is from the start of the handler's range; `data` is 1 to 8 bytes, little-endian, and
  // may reach past the end of the range. What read() leaves alone the guest sees as all ones.
  // Any thread.
  virtual void read(uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(uint64_t offset, std::span<const std::byte> data) = 0;
};

// The access as a number; `data` is at most 8 bytes.
inline uint64_t load_access(std::span<const std::byte> data) {
  uint64_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof(value)));
  return value;
}
inline void store_access(std::span<std::byte> data, uint64_t value) {
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof(value)));
}

class Bus {
 public:
  // Where ranges overlap, the one added first answers.
  void add(uint64_t start, uint64_t size, BusHandler& handler);
  // Removes the range that `handler` has at `start`, if it has one.
  void remove(uint64_t start, const BusHandler& handler);

  // An address without a handler reads as all ones, and writes to it are ignored.
  void read(uint64_t address, std::span<std::byte> data) const;
  void write(uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    uint64_t start = 0;
    uint64_t size = 0;
    BusHandler* handler = nullptr;
  };
  Range find(uint64_t address) const;

  mutable std::shared_mutex mutex_;
  std::vector<Range> ranges_;  // guarded by mutex_; few, so searched in order
};

}  // namespace plumb
