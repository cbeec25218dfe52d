#include "tests/simulation/lying_engine.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace plumb::simulation {
namespace {

int64_t asked_for(const IoOp& op) {
  if (op.kind != IoOpKind::kRead && op.kind != IoOpKind::kWrite) return 0;
  int64_t sum = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) sum += static_cast<int64_t>(op.iov[i].iov_len);
  return sum;
}

}  // namespace

void LyingEngine::submit(IoOp& op) {
  const bool now = ++operations_ >= kLiesAt;
  if (lie_ == Lie::kNeverCompletes && operations_ == kLiesAt) {
    kept_ = &op;
    return;
  }
  if (lie_ == Lie::kOutsideRange && now && op.kind == IoOpKind::kWrite) {
    op.offset = engine_.device(static_cast<uint32_t>(op.file.slot)).size_bytes();
  }
  below_->submit(op);
}

void LyingEngine::wait(int64_t until_ns, IoEvents& events) {
  IoEvents below;
  below_->wait(until_ns, below);
  events.ready.insert(events.ready.end(), below.ready.begin(), below.ready.end());
  while (IoOp* op = below.completed.pop()) {
    if (engine_.powered()) lie_about(*op);
    events.completed.push(*op);
  }
  if (lie_ == Lie::kLateWrite) write_late();
  if (kept_ == nullptr || engine_.powered()) return;
  kept_->result = -EIO;
  events.completed.push(*std::exchange(kept_, nullptr));
}

void LyingEngine::lie_about(IoOp& op) {
  const bool again = op.result == -EINTR || op.result == -EAGAIN || op.result == -EINVAL;
  if (lie_ == Lie::kSwallowedError && op.result < 0 && !again) op.result = asked_for(op);
  if (lie_ == Lie::kShortAsWhole && op.result > 0) op.result = asked_for(op);
  if (op.kind != IoOpKind::kRead || op.result <= 0) return;
  if (lie_ == Lie::kLateWrite) buffers_.assign(op.iov, op.iov + op.iov_count);
  if (lie_ == Lie::kStaleRead) tell_old(op);
}

// When all is quiet, as after a reset.
void LyingEngine::write_late() {
  idle_waits_ = engine_.in_flight() == 0 ? idle_waits_ + 1 : 0;
  if (idle_waits_ < 3) return;
  for (const iovec& part : buffers_)
    std::memset(part.iov_base, 0, std::min<size_t>(part.iov_len, 1));
  buffers_.clear();
}

void LyingEngine::tell_old(const IoOp& op) {
  std::vector<std::byte>& found = found_[{op.file.fd, op.offset}];
  const bool first = found.empty();
  if (first) found.resize(static_cast<size_t>(asked_for(op)));
  size_t at = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) {
    const size_t count = std::min(op.iov[i].iov_len, found.size() - at);
    if (first) {
      std::memcpy(found.data() + at, op.iov[i].iov_base, count);
    } else {
      std::memcpy(op.iov[i].iov_base, found.data() + at, count);
    }
    at += count;
  }
}

}  // namespace plumb::simulation
