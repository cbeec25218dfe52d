#include "blockdev/disk_stats.h"

#include <catch2/catch.hpp>

namespace plumb {
namespace {

// The bucket that counted `ns`.
size_t bucket_of(int64_t ns) {
  LatencyHistogram histogram;
  histogram.add(ns);
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
    if (histogram.count(i) == 1) return i;
  }
  return LatencyHistogram::kBuckets;
}

}  // namespace

TEST_CASE("a duration is counted in the first bucket whose bound it does not exceed") {
  CHECK(bucket_of(0) == 0);
  CHECK(bucket_of(-5) == 0);
  for (size_t i = 0; i + 1 < LatencyHistogram::kBuckets; ++i) {
    const int64_t bound = LatencyHistogram::upper_bound_ns(i);
    CHECK(bucket_of(bound) == i);
    CHECK(bucket_of(bound + 1) == i + 1);
  }
  CHECK(bucket_of(INT64_MAX) == LatencyHistogram::kBuckets - 1);
}

TEST_CASE("a histogram adds up the time") {
  LatencyHistogram histogram;
  histogram.add(1500);
  histogram.add(2500);
  CHECK(histogram.total_ns() == 4000);
}

}  // namespace plumb
