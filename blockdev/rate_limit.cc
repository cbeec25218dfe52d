#include "blockdev/rate_limit.h"

#include <algorithm>

namespace plumb {
namespace {

constexpr double kNsPerSecond = 1e9;

double ns_per(uint64_t per_second) {
  return per_second == 0 ? 0 : kNsPerSecond / static_cast<double>(per_second);
}

}  // namespace

RateLimit::RateLimit(const RateLimitConfig& config)
    : ns_per_request_(ns_per(config.requests_per_second)),
      ns_per_byte_(ns_per(config.bytes_per_second)),
      burst_ns_(static_cast<int64_t>(config.burst_seconds * kNsPerSecond)) {}

int64_t RateLimit::next_ns() const {
  return std::max(requests_paid_ns_, bytes_paid_ns_) - burst_ns_;
}

void RateLimit::take(int64_t now_ns, uint64_t bytes) {
  requests_paid_ns_ = std::max(requests_paid_ns_, now_ns) + static_cast<int64_t>(ns_per_request_);
  bytes_paid_ns_ = std::max(bytes_paid_ns_, now_ns) +
                   static_cast<int64_t>(ns_per_byte_ * static_cast<double>(bytes));
}

}  // namespace plumb
