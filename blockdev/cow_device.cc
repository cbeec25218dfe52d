#include "blockdev/cow_device.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "blockdev/limits.h"

namespace plumb {

// Grains of the disk on their way to the overlay.
struct CowDevice::Copy : BlockRequest {
  CowDevice* device = nullptr;
  Step step = Step::kIdle;
  uint64_t first = 0;  // grain
  uint64_t grains = 0;
  std::byte* buffer = nullptr;
  iovec part{};

  bool overlaps(uint64_t from, uint64_t to) const {
    return step != Step::kIdle && first < to && from < first + grains;
  }
  void transfer(BlockOp what, uint64_t at, uint64_t bytes) {
    part = {.iov_base = buffer, .iov_len = bytes};
    op = what;
    durable = what == BlockOp::kWrite;
    offset = at;
    length = bytes;
    iov = &part;
    iov_count = 1;
    error = 0;
  }
};

// A page of the overlay on its way there.
struct CowDevice::Record : BlockRequest {
  CowDevice* device = nullptr;
  AlignedMemory page = aligned_memory(kCowPageBytes);
  iovec part{};

  void set(uint64_t at, CowPageView bytes) {
    std::copy(bytes.begin(), bytes.end(), page.get());
    part = {.iov_base = page.get(), .iov_len = kCowPageBytes};
    op = BlockOp::kWrite;
    durable = true;
    offset = at;
    length = kCowPageBytes;
    iov = &part;
    iov_count = 1;
    error = 0;
  }
};

CowDevice::CowDevice(Parts parts, CowOverlay overlay, Config config, IoThread& thread)
    : parts_(std::move(parts)),
      overlay_(std::move(overlay)),
      config_(std::move(config)),
      thread_(thread),
      data_at_(cow_data_at(overlay_.header)),
      grain_shift_(std::countr_zero(overlay_.header.grain_bytes)),
      copy_bytes_(std::max(kCowCopyBytes, overlay_.header.grain_bytes)),
      buffers_(aligned_memory(size_t{kCowCopies} * copy_bytes_)),
      copies_(kCowCopies),
      table_(std::make_unique<Record>()),
      state_(std::make_unique<Record>()) {
  ENSURE(buffers_ != nullptr && table_->page != nullptr && state_->page != nullptr);
  ENSURE(overlay_.header.base_bytes <= info().size_bytes);
  for (size_t i = 0; i < copies_.size(); ++i) {
    copies_[i].device = this;
    copies_[i].done = copy_done;
    copies_[i].buffer = buffers_.get() + i * copy_bytes_;
  }
  table_->device = state_->device = this;
  table_->done = table_done;
  state_->done = state_done;
  later_.owner = this;
  later_.done = run_later;
}

CowDevice::~CowDevice() {
  ENSURE(!busy() && !state_busy_ && waiting_.empty() && ended_.empty() && !later_asked_);
}

CowDevice::Parts CowDevice::take_apart() {
  ENSURE(!busy() && !state_busy_ && waiting_.empty() && ended_.empty() && !later_asked_);
  return std::move(parts_);
}

// What of the request lies on the snapshot: the disk may have grown since.
CowDevice::Range CowDevice::grains_of(const BlockRequest& request) const {
  const uint64_t grain = overlay_.header.grain_bytes;
  const uint64_t end = (request.offset + request.length + grain - 1) >> grain_shift_;
  return {.first = std::min(request.offset >> grain_shift_, overlay_.table.grains()),
          .end = std::min(end, overlay_.table.grains())};
}

bool CowDevice::passes(const BlockRequest& request) const {
  if (condition_ == Condition::kBroken) return true;
  const Range range = grains_of(request);
  return overlay_.table.first_missing(range.first, range.end) == range.end;
}

void CowDevice::submit(BlockRequest& request) {
  const bool changes = request.op != BlockOp::kRead && request.op != BlockOp::kFlush;
  if (!changes || passes(request)) return parts_.below->submit(request);
  if (request.op == BlockOp::kDiscard) return end_later(request);
  waiting_.push(request);
  start_copies();
}

void CowDevice::end_later(BlockRequest& request) {
  request.error = 0;
  ended_.push(request);
  call_later();
}

void CowDevice::call_later() {
  if (!std::exchange(later_asked_, true)) thread_.defer(later_);
}

void CowDevice::run_later(IoOp& op) {
  CowDevice& device = *static_cast<CowDevice*>(op.owner);
  device.later_asked_ = false;
  BlockRequestList ended;
  ended.push_all(device.ended_);
  while (BlockRequest* request = ended.pop()) request->done(*request);
  // The last: it may be the end of the device.
  if (device.written_ && !device.state_busy_) device.tell_written();
}

void CowDevice::tell_written() {
  Written written = std::exchange(written_, {});
  const int error = state_->error;
  if (error == 0) return written({});
  written(os_error(error, "the overlay of snapshot {} cannot be written", uuid()));
}

// --- Copies ---

// For what waits, in its order, as long as there is a buffer.
void CowDevice::start_copies() {
  for (BlockRequest* request = waiting_.first(); request != nullptr; request = request->next) {
    if (condition_ != Condition::kWhole || read_error_ != 0) return settle();
    if (copies_busy_ == copies_.size() || !start_copies_for(*request)) return;
  }
}

// False when no copy more can be started.
bool CowDevice::start_copies_for(const BlockRequest& request) {
  const Range range = grains_of(request);
  uint64_t first = first_to_copy(range.first, range.end);
  while (first < range.end) {
    if (!start_copy(first, range.end)) return false;
    first = first_to_copy(first, range.end);
  }
  return true;
}

// The first grain that is neither kept nor on its way.
uint64_t CowDevice::first_to_copy(uint64_t first, uint64_t end) const {
  for (;;) {
    first = overlay_.table.first_missing(first, end);
    const auto copy = std::find_if(copies_.begin(), copies_.end(), [first](const Copy& one) {
      return one.overlaps(first, first + 1);
    });
    if (first == end || copy == copies_.end()) return first;
    first = std::min(copy->first + copy->grains, end);
  }
}

// `first` and what follows it, as far as one copy goes.
bool CowDevice::start_copy(uint64_t first, uint64_t end) {
  const auto copy = std::find_if(copies_.begin(), copies_.end(),
                                 [](const Copy& one) { return one.step == Step::kIdle; });
  if (copy == copies_.end()) return false;
  const CowHeader& header = overlay_.header;
  const uint64_t grain = header.grain_bytes;
  const uint64_t limit = header.limit_bytes == 0 ? UINT64_MAX : header.limit_bytes / grain;
  const uint64_t used = overlay_.table.kept() + grains_busy_;
  if (used >= limit) {
    give_up(fmt::format("its limit of {} bytes is reached", header.limit_bytes));
    return false;
  }
  // One page of the table records it.
  const uint64_t page_left = kCowGrainsPerPage - first % kCowGrainsPerPage;
  end = first + std::min({end - first, page_left, copy_bytes_ / grain, limit - used});
  copy->first = first;
  copy->grains = 1;
  for (uint64_t next = first + 1; next < end && first_to_copy(next, end) == next; ++next) {
    ++copy->grains;
  }
  copy->step = Step::kReading;
  ++copies_busy_;
  grains_busy_ += copy->grains;
  const uint64_t at = first * grain;
  copy->transfer(BlockOp::kRead, at, std::min(copy->grains * grain, header.base_bytes - at));
  parts_.below->submit(*copy);
  return true;
}

void CowDevice::copy_done(BlockRequest& request) {
  Copy& copy = static_cast<Copy&>(request);
  CowDevice& device = *copy.device;
  if (device.condition_ != Condition::kWhole) {
    device.release(copy);
    device.settle();
  } else if (copy.step == Step::kReading) {
    copy.error == 0 ? device.was_read(copy) : device.unreadable(copy);
  } else if (copy.error == 0) {
    copy.step = Step::kCopied;
    device.thread_.call_at_batch_end(device);
  } else {
    const int error = copy.error;
    device.release(copy);
    device.give_up(fmt::format("the overlay cannot be written: {}", std::strerror(error)));
  }
}

void CowDevice::was_read(Copy& copy) {
  const CowHeader& header = overlay_.header;
  const uint64_t at = copy.first * header.grain_bytes;
  const uint64_t bytes = std::min(copy.grains * header.grain_bytes, header.base_bytes - at);
  // The end of the disk may be inside a block of the overlay.
  const uint64_t whole = (bytes + kCowPageBytes - 1) / kCowPageBytes * kCowPageBytes;
  std::memset(copy.buffer + bytes, 0, whole - bytes);
  copy.step = Step::kWriting;
  copy.transfer(BlockOp::kWrite, data_at_ + at, whole);
  parts_.overlay->submit(copy);
}

void CowDevice::unreadable(Copy& copy) {
  const int error = copy.error;
  release(copy);
  if (config_.unreadable_breaks) {
    return give_up(fmt::format("the disk cannot be read: {}", std::strerror(error)));
  }
  read_error_ = error;
  settle();
}

void CowDevice::release(Copy& copy) {
  copy.step = Step::kIdle;
  --copies_busy_;
  grains_busy_ -= copy.grains;
}

// Records what is in the overlay by now, one page of the table at a time: what comes meanwhile
// shares the next.
void CowDevice::batch_end() {
  if (table_busy_ || condition_ != Condition::kWhole) return settle();
  const auto copied = [](const Copy& copy) { return copy.step == Step::kCopied; };
  const auto first = std::find_if(copies_.begin(), copies_.end(), copied);
  if (first == copies_.end()) return;
  table_page_ = first->first / kCowGrainsPerPage;
  table_->set(kCowTableAt + table_page_ * kCowPageBytes, overlay_.table.page(table_page_));
  for (Copy& copy : copies_) {
    if (!copied(copy) || copy.first / kCowGrainsPerPage != table_page_) continue;
    copy.step = Step::kRecording;
    for (uint64_t i = 0; i < copy.grains; ++i) {
      const uint64_t bit = copy.first + i - table_page_ * kCowGrainsPerPage;
      table_->page.get()[bit / 8] |= static_cast<std::byte>(1U << bit % 8);
    }
  }
  table_busy_ = true;
  parts_.overlay->submit(*table_);
}

void CowDevice::table_done(BlockRequest& request) {
  static_cast<Record&>(request).device->recorded(request.error);
}

void CowDevice::recorded(int error) {
  table_busy_ = false;
  for (Copy& copy : copies_) {
    if (copy.step != Step::kRecording) continue;
    for (uint64_t i = 0; error == 0 && i < copy.grains; ++i) overlay_.table.add(copy.first + i);
    release(copy);
  }
  if (error != 0 && condition_ == Condition::kWhole) {
    return give_up(fmt::format("the overlay cannot be written: {}", std::strerror(error)));
  }
  pass_waiting();
  start_copies();
  const auto copied = [](const Copy& copy) { return copy.step == Step::kCopied; };
  if (std::any_of(copies_.begin(), copies_.end(), copied)) thread_.call_at_batch_end(*this);
  settle();
}

// --- What waits ---

void CowDevice::pass_waiting() {
  BlockRequestList before;
  before.push_all(waiting_);
  while (BlockRequest* request = before.pop()) {
    if (passes(*request)) {
      parts_.below->submit(*request);
    } else {
      waiting_.push(*request);
    }
  }
}

void CowDevice::fail_waiting() {
  const int error = std::exchange(read_error_, 0);
  BlockRequestList failing;
  failing.push_all(waiting_);
  while (BlockRequest* request = failing.pop()) {
    request->error = error;
    request->done(*request);  // which may submit again
  }
}

// --- The end of a snapshot ---

void CowDevice::give_up(std::string reason) {
  if (condition_ == Condition::kWhole) {
    condition_ = Condition::kBreaking;
    reason_ = std::move(reason);
    read_error_ = 0;
  }
  settle();
}

// Goes on with what had to wait for the copies to end.
void CowDevice::settle() {
  if (condition_ == Condition::kWhole) {
    if (read_error_ != 0 && !busy()) fail_waiting();
    return;
  }
  for (Copy& copy : copies_) {
    if (copy.step == Step::kCopied) release(copy);
  }
  if (condition_ != Condition::kBreaking || busy() || state_busy_) return;
  CowState state = overlay_.state;
  state.condition = CowCondition::kBroken;
  state.reason = reason_;
  write_state(state);
}

void CowDevice::write_state(const CowState& state) {
  ENSURE(!std::exchange(state_busy_, true));
  state_->set(kCowStateAt, print_cow_state(state));
  parts_.overlay->submit(*state_);
}

void CowDevice::state_done(BlockRequest& request) {
  CowDevice& device = *static_cast<Record&>(request).device;
  device.state_busy_ = false;
  // Not from here: the overlay that has just called may be closed by who hears of it.
  device.written_ ? device.call_later() : device.marked(request.error);
}

void CowDevice::marked(int error) {
  condition_ = error == 0 ? Condition::kBroken : Condition::kUnmarked;
  if (error == 0) pass_waiting();
  if (config_.broken) {
    config_.broken({.reason = reason_, .marked = error == 0});
  } else if (error != 0) {
    go_on();
  }
}

void CowDevice::go_on() {
  if (condition_ != Condition::kUnmarked) return;
  condition_ = Condition::kBroken;
  pass_waiting();
}

void CowDevice::record(CowState state, Written written) {
  ENSURE(!busy() && waiting_.empty() && !written_);
  written_ = std::move(written);
  if (is_broken()) {
    state.condition = CowCondition::kBroken;
    state.reason = reason_;
  }
  state.uuid = overlay_.header.uuid;
  state.opens = overlay_.state.opens;
  write_state(state);
}

}  // namespace plumb
