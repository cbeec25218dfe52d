#include "blockdev/disk_stats.h"

#include <algorithm>
#include <bit>

namespace plumb {

void LatencyHistogram::add(int64_t ns) {
  const auto whole = static_cast<uint64_t>(std::max<int64_t>(ns, 0));
  // 1 µs itself belongs to the first bucket: bounds are inclusive.
  const uint64_t microseconds = (whole + 999) / 1000;
  const auto bucket = static_cast<size_t>(microseconds <= 1 ? 0 : std::bit_width(microseconds - 1));
  count_up(counts_[std::min(bucket, kBuckets - 1)]);
  count_up(total_ns_, whole);
}

}  // namespace plumb
