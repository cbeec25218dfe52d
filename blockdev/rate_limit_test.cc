#include "blockdev/rate_limit.h"

#include <catch2/catch.hpp>

namespace plumb {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// How many requests of `bytes` go until `end_ns`, each as soon as it may.
uint64_t passed_until(RateLimit& limit, int64_t start_ns, int64_t end_ns, uint64_t bytes) {
  uint64_t count = 0;
  for (int64_t now = start_ns;; ++count) {
    now = std::max(now, limit.next_ns());
    if (now >= end_ns) return count;
    limit.take(now, bytes);
  }
}

}  // namespace

TEST_CASE("without limits everything goes at once") {
  RateLimit limit({});
  CHECK(!limit.limited());
}

TEST_CASE("the rate holds after the burst is used up") {
  RateLimit limit({.requests_per_second = 500, .burst_seconds = 0.1});
  const int64_t start = 1000 * kSecond;
  // A tenth of a second's worth at once, and one that the next ones wait for.
  CHECK(passed_until(limit, start, start + 1, 4096) == 51);
  CHECK(passed_until(limit, start + 1, start + 10 * kSecond, 4096) == 5000 - 1);
}

TEST_CASE("bytes and requests are limited each by itself") {
  RateLimit limit(
      {.requests_per_second = 1000, .bytes_per_second = 1 << 20, .burst_seconds = 0.001});
  const int64_t start = 5 * kSecond;
  CHECK(passed_until(limit, start, start + 10 * kSecond, 512) / 10 == 1000);
  CHECK(passed_until(limit, start + 10 * kSecond, start + 20 * kSecond, 8192) / 10 == 128);
}

TEST_CASE("a request larger than the burst goes, and the next ones wait for it") {
  RateLimit limit({.bytes_per_second = 1'000'000, .burst_seconds = 0.01});
  const int64_t start = 7 * kSecond;
  CHECK(limit.next_ns() <= start);
  limit.take(start, 3'000'000);
  CHECK(limit.next_ns() == start + 3 * kSecond - kSecond / 100);
}

TEST_CASE("quiet time is not saved beyond the burst") {
  RateLimit limit({.requests_per_second = 100, .burst_seconds = 0.5});
  CHECK(passed_until(limit, kSecond, kSecond + 1, 0) == 51);
  CHECK(passed_until(limit, 1000 * kSecond, 1000 * kSecond + 1, 0) == 51);
}

}  // namespace plumb
