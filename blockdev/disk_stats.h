// DiskStats: what a disk did since it was opened. Written by its I/O thread, read by any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "blockdev/block_device.h"

namespace plumb {

// Counts durations in buckets whose upper bounds double from 1 µs to 16.8 s; the last has none.
class LatencyHistogram {
 public:
  static constexpr size_t kBuckets = 26;

  // Only the I/O thread.
  void add(int64_t ns);

  uint64_t count(size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  uint64_t total_ns() const { return total_ns_.load(std::memory_order_relaxed); }
  // Of a bucket but the last.
  static constexpr int64_t upper_bound_ns(size_t bucket) { return int64_t{1000} << bucket; }

 private:
  std::array<std::atomic<uint64_t>, kBuckets> counts_{};
  std::atomic<uint64_t> total_ns_ = 0;
};

struct DiskOpStats {
  std::atomic<uint64_t> requests = 0;  // ended, with whatever result
  std::atomic<uint64_t> bytes = 0;     // of those that succeeded
  std::atomic<uint64_t> errors = 0;    // also those that were retried later
  LatencyHistogram latency;  // from submit() to done(), waits for limits and holds included
};

struct DiskStats {
  std::array<DiskOpStats, kBlockOps> ops;  // by BlockOp
  std::atomic<uint32_t> in_flight = 0;
  std::atomic<uint64_t> stops = 0;  // times an error stopped the disk

  const DiskOpStats& of(BlockOp op) const { return ops[static_cast<size_t>(op)]; }
  DiskOpStats& of(BlockOp op) { return ops[static_cast<size_t>(op)]; }
};

// For counters with one writer: no bus lock.
inline void count_up(std::atomic<uint64_t>& counter, uint64_t by = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace plumb
