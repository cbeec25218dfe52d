#include "blockdev/disk.h"

#include <cerrno>

#include "blockdev/limits.h"

namespace plumb {

Disk::Disk(Config config, std::unique_ptr<BlockDevice> device, IoThread& thread)
    : config_(std::move(config)), device_(std::move(device)), thread_(thread) {
  if (config_.serial.empty()) config_.serial = config_.id;
  later_.owner = this;
  later_.done = run_later;
}

Disk::~Disk() {
  ENSURE(in_flight_ == 0 && parked_.empty() && refused_.empty());
  // A call that call_later() asked for may still be due: one whole turn of the loop lets it pass.
  thread_.run([] {});
  thread_.run([this] { ENSURE(!later_asked_); });
}

int Disk::transfer_error(const BlockRequest& request) const {
  if (request.iov_count == 0 || request.iov_count > kMaxIovecs) return EINVAL;
  if (request.length > kMaxTransferBytes) return EINVAL;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < request.iov_count; ++i) sum += request.iov[i].iov_len;
  return sum == request.length ? 0 : EINVAL;
}

// 0, or the errno with which a request outside info() ends.
int Disk::contract_error(const BlockRequest& request) const {
  const BlockInfo& info = device_->info();
  if (request.op == BlockOp::kFlush) return 0;
  if (request.op != BlockOp::kRead && info.read_only) return EROFS;
  const uint64_t unit = info.logical_block_size;
  if (request.length == 0 || request.length % unit != 0 || request.offset % unit != 0)
    return EINVAL;
  if (request.offset > info.size_bytes || request.length > info.size_bytes - request.offset) {
    return EINVAL;
  }
  switch (request.op) {
    case BlockOp::kDiscard:
      return request.length <= info.max_discard_bytes ? 0 : EINVAL;
    case BlockOp::kWriteZeroes:
      return request.length <= info.max_write_zeroes_bytes ? 0 : EINVAL;
    default:
      return transfer_error(request);
  }
}

void Disk::submit(BlockRequest& request) {
  ENSURE(!request.in_flight && request.done != nullptr);
  request.in_flight = true;
  request.error = contract_error(request);
  if (request.error != 0) {
    refused_.push(request);
    call_later();
    return;
  }
  // Promise 1: a completed write is on the medium. This is the one place that decides it.
  const bool changes = request.op != BlockOp::kRead && request.op != BlockOp::kFlush;
  if (changes && config_.cache == CacheMode::kWritethrough) request.durable = true;
  if (holds_ > 0) {
    parked_.push(request);
  } else {
    send(request);
  }
}

void Disk::send(BlockRequest& request) {
  request.disk = this;
  request.front_done = request.done;
  request.done = finished;
  ++in_flight_;
  device_->submit(request);
}

void Disk::finished(BlockRequest& request) {
  Disk& disk = *request.disk;
  request.done = request.front_done;
  --disk.in_flight_;
  if (disk.in_flight_ == 0 && !disk.drained_.empty()) disk.call_later();
  disk.give_back(request);
}

void Disk::give_back(BlockRequest& request) {
  request.in_flight = false;
  request.done(request);
}

void Disk::hold(std::move_only_function<void()> drained) {
  ++holds_;
  drained_.push_back(std::move(drained));
  if (in_flight_ == 0) call_later();
}

void Disk::release() {
  ENSURE(holds_ > 0);
  if (--holds_ > 0) return;
  drained_.clear();
  // done() may submit again, and a filter may hold again, while these go.
  BlockRequestList waiting;
  while (BlockRequest* request = parked_.pop()) waiting.push(*request);
  while (BlockRequest* request = waiting.pop()) {
    if (holds_ > 0) {
      parked_.push(*request);
    } else {
      send(*request);
    }
  }
}

bool Disk::withdraw(BlockRequest& request) {
  if (!parked_.remove(request)) return false;
  request.in_flight = false;
  return true;
}

void Disk::call_later() {
  if (later_asked_) return;
  later_asked_ = true;
  thread_.defer(later_);
}

void Disk::run_later(IoOp& op) {
  Disk& disk = *static_cast<Disk*>(op.owner);
  disk.later_asked_ = false;
  // Only what is here now: a front end that submits bad requests for ever must not keep the loop.
  BlockRequestList refused;
  while (BlockRequest* request = disk.refused_.pop()) refused.push(*request);
  while (BlockRequest* request = refused.pop()) disk.give_back(*request);
  if (disk.in_flight_ != 0) return;
  std::vector<std::move_only_function<void()>> drained;
  drained.swap(disk.drained_);
  for (auto& call : drained) call();
}

}  // namespace plumb
