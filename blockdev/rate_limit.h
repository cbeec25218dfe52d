// RateLimit: how many requests and bytes a disk may move in a second. Pure: told the time, it says
// when the next request may go.
//
// After a quiet time a disk may exceed its limits by what it could have moved in `burst_seconds`;
// a request larger than that goes, and the next ones wait for it (GCRA, ITU-T I.371).
#pragma once

#include <cstdint>

namespace plumb {

struct RateLimitConfig {
  uint64_t requests_per_second = 0;  // 0: no limit
  uint64_t bytes_per_second = 0;     // 0: no limit
  double burst_seconds = 1;          // above 0
};

class RateLimit {
 public:
  explicit RateLimit(const RateLimitConfig& config);

  bool limited() const { return ns_per_request_ > 0 || ns_per_byte_ > 0; }

  // When the next request may go; not after `now_ns` when at once.
  int64_t next_ns() const;
  // A request of `bytes` goes at `now_ns`.
  void take(int64_t now_ns, uint64_t bytes);

 private:
  const double ns_per_request_;  // 0: no limit
  const double ns_per_byte_;
  const int64_t burst_ns_;
  // When all that went would have gone at an even rate.
  int64_t requests_paid_ns_ = 0;
  int64_t bytes_paid_ns_ = 0;
};

}  // namespace plumb
