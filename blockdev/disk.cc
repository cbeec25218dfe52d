#include "blockdev/disk.h"

#include <sys/sdt.h>

#include <algorithm>
#include <cerrno>

#include "blockdev/limits.h"

namespace plumb {

const char* name_of(BlockOp op) {
  constexpr const char* kNames[kBlockOps] = {"read", "write", "flush", "discard", "write-zeroes"};
  return kNames[static_cast<size_t>(op)];
}

Disk::Disk(Config config, std::unique_ptr<BlockDevice> device, IoThread& thread)
    : config_(std::move(config)),
      device_(std::move(device)),
      thread_(thread),
      limit_(config_.limit) {
  if (config_.serial.empty()) config_.serial = config_.id;
  later_.owner = this;
  later_.done = run_later;
  hold_timer_.owner = this;
  hold_timer_.expired = [](IoTimer& timer) { static_cast<Disk*>(timer.owner)->end_late_holds(); };
  limit_timer_.owner = this;
  limit_timer_.expired = [](IoTimer& timer) { static_cast<Disk*>(timer.owner)->send_parked(); };
}

Disk::~Disk() {
  ENSURE(in_flight_ == 0 && kept_.empty() && parked_.empty() && refused_.empty());
  thread_.run([this] {
    thread_.cancel_timer(hold_timer_);
    thread_.cancel_timer(limit_timer_);
  });
  // A call that call_later() asked for may still be due, and who hears of it then may ask for one
  // more: each whole turn of the loop lets one pass.
  for (bool due = true; due;) thread_.run([this, &due] { due = later_asked_; });
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
  if (request.elsewhere != nullptr) return 0;
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
  request.submitted_ns = thread_.turn_ns();
  request.submitted_bytes = request.length;
  DTRACE_PROBE5(plumb, disk_submit, config_.id.c_str(), &request, static_cast<int>(request.op),
                request.offset, request.length);
  const int error = cut_off_ ? EIO : contract_error(request);
  if (error != 0) return refuse(request, error);
  request.error = 0;
  // Promise 1: a completed write is on the medium. This is the one place that decides it.
  const bool changes = request.op != BlockOp::kRead && request.op != BlockOp::kFlush;
  if (changes && config_.cache == CacheMode::kWritethrough) request.durable = true;
  if (parked_.empty() && may_pass()) {
    send(request);
  } else {
    parked_.push(request);
  }
}

// Whether a request may go to the device now; sees to it that what is parked goes later.
bool Disk::may_pass() {
  if (holds_ > 0 || stopped_) return false;
  if (!limit_.limited() || limit_.next_ns() <= thread_.turn_ns()) return true;
  if (!limit_timer_.set()) thread_.set_timer(limit_timer_, limit_.next_ns());
  return false;
}

void Disk::send(BlockRequest& request) {
  const bool elsewhere = request.elsewhere != nullptr && request.op != BlockOp::kRead;
  // Asked here, not before it was parked: a hold is when such a device comes.
  if (elsewhere && device_->must_see_changes()) return refuse(request, EOPNOTSUPP);
  if (limit_.limited()) limit_.take(thread_.turn_ns(), request.iov_count > 0 ? request.length : 0);
  request.disk = this;
  request.front_done = request.done;
  request.done = finished;
  stats_.in_flight.store(++in_flight_, std::memory_order_relaxed);
  if (request.elsewhere != nullptr) return request.elsewhere(request);
  device_->submit(request);
}

void Disk::finished(BlockRequest& request) {
  Disk& disk = *request.disk;
  request.done = request.front_done;
  disk.stats_.in_flight.store(--disk.in_flight_, std::memory_order_relaxed);
  if (disk.in_flight_ == 0 && !disk.waiting_holds_.empty()) disk.call_later();
  const bool stop = request.error != 0 && disk.stops_for(request);
  if (request.error != 0) disk.note_error(request, stop);
  if (stop) {
    disk.kept_.push(request);
  } else {
    disk.give_back(request);
  }
}

// Some errors are the answer: retrying cannot change them, or, for a flush, must not hide that what
// it should have written may be gone. With writethrough it should have written nothing.
bool Disk::stops_for(const BlockRequest& request) const {
  if (config_.on_error != ErrorPolicy::kPause || request.unwanted || cut_off_) return false;
  if (request.op == BlockOp::kFlush && config_.cache == CacheMode::kWriteback) return false;
  return request.error != EOPNOTSUPP && request.error != EBADE;  // EBADE: reservation conflict
}

void Disk::note_error(const BlockRequest& request, bool stop) {
  constexpr int64_t kTellNs = 1'000'000'000;
  count_up(stats_.of(request.op).errors);
  const bool stops_now = stop && !std::exchange(stopped_, stopped_ || stop);
  if (stops_now) count_up(stats_.stops);
  const int64_t now_ns = thread_.turn_ns();
  if (!stops_now && last_told_ns_ != INT64_MIN && now_ns - last_told_ns_ < kTellNs) {
    ++unspoken_;
    return;
  }
  last_told_ns_ = now_ns;
  if (!config_.failed) return;
  config_.failed({.op = request.op,
                  .offset = request.offset,
                  .length = request.length,
                  .error = request.error,
                  .stopped = stop,
                  .unspoken = std::exchange(unspoken_, 0)});
}

void Disk::refuse(BlockRequest& request, int error) {
  request.error = error;
  refused_.push(request);
  call_later();
}

void Disk::give_back(BlockRequest& request) {
  const int64_t taken_ns = thread_.turn_ns() - request.submitted_ns;
  DiskOpStats& stats = stats_.of(request.op);
  count_up(stats.requests);
  if (request.error == 0) count_up(stats.bytes, request.submitted_bytes);
  stats.latency.add(taken_ns);
  DTRACE_PROBE5(plumb, disk_complete, config_.id.c_str(), &request, static_cast<int>(request.op),
                request.error, taken_ns);
  request.in_flight = false;
  request.done(request);
}

void Disk::retry() {
  if (!std::exchange(stopped_, false)) return;
  // What failed goes first, and before what came since.
  BlockRequestList all;
  all.push_all(kept_);
  all.push_all(parked_);
  parked_.push_all(all);
  send_parked();
}

void Disk::set_on_error(ErrorPolicy policy) {
  config_.on_error = policy;
  if (policy != ErrorPolicy::kReport || !std::exchange(stopped_, false)) return;
  BlockRequestList failed;
  failed.push_all(kept_);
  while (BlockRequest* request = failed.pop()) give_back(*request);
  send_parked();
}

void Disk::send_parked() {
  // done() may submit again, and a filter may hold again, while these go.
  while (!parked_.empty() && may_pass()) send(*parked_.pop());
}

void Disk::hold(int64_t deadline_ns, Drained drained) {
  ++holds_;
  waiting_holds_.push_back({deadline_ns, std::move(drained)});
  set_hold_timer();
  if (in_flight_ == 0) call_later();
}

void Disk::release() {
  ENSURE(holds_ > 0);
  if (--holds_ > 0) return;
  waiting_holds_.clear();
  set_hold_timer();
  send_parked();
}

void Disk::set_hold_timer() {
  int64_t first_ns = kForever;
  for (const Hold& hold : waiting_holds_) first_ns = std::min(first_ns, hold.deadline_ns);
  thread_.cancel_timer(hold_timer_);
  if (first_ns != kForever) thread_.set_timer(hold_timer_, first_ns);
}

void Disk::end_late_holds() {
  std::vector<Hold> late;
  for (size_t i = 0; i < waiting_holds_.size();) {
    if (waiting_holds_[i].deadline_ns > thread_.turn_ns()) {
      ++i;
      continue;
    }
    late.push_back(std::move(waiting_holds_[i]));
    waiting_holds_.erase(waiting_holds_.begin() + static_cast<std::ptrdiff_t>(i));
    --holds_;
  }
  const Error error = failed(
      "disk {} cannot be held in the time given: its device still has {} of "
      "its requests; look for slow storage in the host's log",
      config_.id, in_flight_);
  set_hold_timer();
  if (holds_ == 0) send_parked();
  for (Hold& hold : late) hold.drained(error);
}

bool Disk::withdraw(BlockRequest& request) {
  if (!parked_.remove(request) && !kept_.remove(request)) return false;
  request.in_flight = false;
  return true;
}

void Disk::cut_off(std::function<void()> idle) {
  ENSURE(!std::exchange(cut_off_, true));
  stopped_ = false;
  kept_.push_all(parked_);
  while (!kept_.empty()) refuse(*kept_.pop(), EIO);
  // A hold that is never released.
  hold(kForever, [idle = std::move(idle)](const Result<>& /*drained*/) { idle(); });
}

std::unique_ptr<BlockDevice> Disk::replace_device(std::unique_ptr<BlockDevice> device) {
  ENSURE(in_flight_ == 0);
  device_.swap(device);
  if (device->info().size_bytes != device_->info().size_bytes && resized_) resized_();
  return device;
}

Result<> Disk::reread_size() {
  const uint64_t before = device_->info().size_bytes;
  TRY(device_->reread_size());
  if (device_->info().size_bytes != before && resized_) resized_();
  return {};
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
  refused.push_all(disk.refused_);
  while (BlockRequest* request = refused.pop()) disk.give_back(*request);
  if (disk.in_flight_ != 0) return;
  std::vector<Hold> drained;
  drained.swap(disk.waiting_holds_);
  disk.set_hold_timer();
  for (Hold& hold : drained) hold.drained({});
}

}  // namespace plumb
