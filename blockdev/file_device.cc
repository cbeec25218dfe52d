#include "blockdev/file_device.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/iovecs.h"
#include "base/log.h"
#include "blockdev/limits.h"

namespace plumb {
namespace {

// Moves the front of the request's buffers on by `bytes`; copies them to or from `flat` on the
// way when it is given.
void consume(BlockRequest& request, uint64_t bytes, std::byte* flat, bool to_flat) {
  while (bytes > 0) {
    iovec& part = *request.iov;
    const size_t count = std::min<uint64_t>(bytes, part.iov_len);
    if (flat != nullptr && count > 0) {
      std::memcpy(to_flat ? flat : part.iov_base, to_flat ? part.iov_base : flat, count);
      flat += count;
    }
    part.iov_base = static_cast<std::byte*>(part.iov_base) + count;
    part.iov_len -= count;
    bytes -= count;
    if (part.iov_len == 0) {
      ++request.iov;
      --request.iov_count;
    }
  }
}

// Whether it changes something that only a flush, not sent with it, makes durable.
bool is_cached(const BlockRequest& request) {
  const bool changes = request.op != BlockOp::kRead && request.op != BlockOp::kFlush;
  return changes && !request.durable;
}

}  // namespace

struct FileDevice::Slot {
  IoOp io;
  FileDevice* device = nullptr;
  BlockRequest* request = nullptr;
  Step step = Step::kTransfer;
  uint64_t done_bytes = 0;      // of the request
  uint32_t retries = 0;         // in a row, without progress
  bool shares_flush = false;    // a durable write without RWF_DSYNC
  uint64_t flushes_failed = 0;  // FileDevice::flushes_failed_ when it began
  iovec own_iov{};              // of a bounced or zero piece
  AlignedMemory bounce;
  Slot* next = nullptr;  // free, or for the same flush
};

Result<FileFacts> FileDevice::examine(const FileFactsQuery& query) {
  const int flags = ::fcntl(query.fd, F_GETFL);
  if (flags < 0) return os_error(errno, "{} is not open", query.label);
  if (!query.read_only && (flags & O_ACCMODE) == O_RDONLY) {
    return failed("{} is open for reading only", query.label);
  }
  if ((flags & O_DIRECT) == 0 && ::fcntl(query.fd, F_SETFL, flags | O_DIRECT) != 0) {
    return os_error(errno, "{} cannot be used with direct I/O (O_DIRECT)", query.label);
  }
  return find_file_facts(query);
}

Result<std::unique_ptr<FileDevice>> FileDevice::open(Config config, IoThread& thread) {
  const FileFacts facts = TRY(examine({.fd = config.fd.get(),
                                       .label = config.label,
                                       .read_only = config.read_only,
                                       .discard = config.discard}));
  return std::make_unique<FileDevice>(std::move(config), facts, thread);
}

FileDevice::FileDevice(Config config, const FileFacts& facts, IoThread& thread)
    : fd_(std::move(config.fd)),
      label_(std::move(config.label)),
      info_(facts.info),
      block_device_(facts.block_device),
      shared_flush_depth_(facts.shared_flush_depth),
      thread_(thread),
      slots_(kFileDeviceOps) {
  for (Slot& slot : slots_) {
    slot.device = this;
    slot.io.owner = &slot;
    slot.io.done = completed;
    slot.next = std::exchange(free_, &slot);
  }
  flush_.kind = IoOpKind::kSync;
  flush_.owner = this;
  flush_.done = flush_completed;
  thread_.run([this] { set_file(); });
}

void FileDevice::set_file() {
  file_ = thread_.engine().add_file(fd_.get());
  for (Slot& slot : slots_) slot.io.file = file_;
  flush_.file = file_;
}

FileDevice::~FileDevice() {
  thread_.run([this] { thread_.engine().remove_file(file_); });
}

void FileDevice::submit(BlockRequest& request) {
  Slot* slot = free_;
  if (slot == nullptr) {
    waiting_.push(request);
    return;
  }
  free_ = slot->next;
  start(*slot, request);
}

void FileDevice::start(Slot& slot, BlockRequest& request) {
  if (is_cached(request)) ++begun_;
  slot.request = &request;
  slot.done_bytes = 0;
  slot.retries = 0;
  slot.shares_flush = false;
  slot.flushes_failed = flushes_failed_;
  switch (request.op) {
    case BlockOp::kRead:
      slot.io.kind = IoOpKind::kRead;
      slot.step = aligned(request) ? Step::kTransfer : Step::kBounce;
      start_transfer(slot);
      return;
    case BlockOp::kWrite:
      start_write(slot);
      return;
    case BlockOp::kDiscard:
    case BlockOp::kWriteZeroes:
      start_range(slot);
      return;
    case BlockOp::kFlush:
      await_flush(slot);
      return;
  }
}

void FileDevice::start_write(Slot& slot) {
  const BlockRequest& request = *slot.request;
  slot.io.kind = IoOpKind::kWrite;
  slot.io.dsync = request.durable;
  slot.step = aligned(request) ? Step::kTransfer : Step::kBounce;
  if (request.durable && share_flushes() && slot.step == Step::kTransfer) {
    slot.shares_flush = true;
    slot.io.dsync = false;
    ++moving_;
  }
  start_transfer(slot);
}

// Whether durable writes came deep enough lately. Counts one more in flight.
bool FileDevice::share_flushes() {
  if (shared_flush_depth_ == 0) return false;
  window_depth_ = std::max(window_depth_, ++durable_writes_);
  if (++window_writes_ == kFlushWindow) {
    window_writes_ = 0;
    depth_ = std::exchange(window_depth_, durable_writes_);
  }
  return std::max(depth_, window_depth_) >= shared_flush_depth_;
}

void FileDevice::stop_sharing(Slot& slot) {
  if (!slot.shares_flush) return;
  slot.shares_flush = false;
  slot.io.dsync = true;
  --moving_;
  // Fewer are on their way to the next flush: it may have waited for this one.
  if (awaiting_flush_ != nullptr) thread_.call_at_batch_end(*this);
}

bool FileDevice::aligned(const BlockRequest& request) const {
  uintptr_t bits = 0;
  for (uint32_t i = 0; i < request.iov_count; ++i) {
    bits |= reinterpret_cast<uintptr_t>(request.iov[i].iov_base) | request.iov[i].iov_len;
  }
  return (bits & (info_.memory_alignment - 1)) == 0;
}

void FileDevice::send(Slot& slot) { thread_.engine().submit(slot.io); }

void FileDevice::start_transfer(Slot& slot) {
  if (slot.step == Step::kBounce) {
    send_bounce(slot);
    return;
  }
  slot.io.iov = slot.request->iov;
  slot.io.iov_count = slot.request->iov_count;
  slot.io.offset = slot.request->offset + slot.done_bytes;
  send(slot);
}

void FileDevice::send_bounce(Slot& slot) {
  const BlockRequest& request = *slot.request;
  const uint64_t rest = request.length - slot.done_bytes;
  const size_t piece = std::min<uint64_t>(rest, kBouncePieceBytes);
  if (slot.bounce == nullptr) slot.bounce = aligned_memory(piece);
  if (slot.bounce == nullptr) {
    slot.io.result = -ENOMEM;
    thread_.defer(slot.io);
    return;
  }
  if (request.op == BlockOp::kWrite) {
    copy_from({request.iov, request.iov_count}, {slot.bounce.get(), piece});
  }
  slot.own_iov = {.iov_base = slot.bounce.get(), .iov_len = piece};
  slot.io.iov = &slot.own_iov;
  slot.io.iov_count = 1;
  slot.io.offset = request.offset + slot.done_bytes;
  send(slot);
}

// The kernel's ways to discard or zero a range, best first; range_ended() moves to the next.
void FileDevice::start_range(Slot& slot) {
  const BlockRequest& request = *slot.request;
  slot.step = Step::kRange;
  slot.io.offset = request.offset;
  slot.io.length = request.length;
  const bool discard = request.op == BlockOp::kDiscard;
  if (discard && block_device_) {
    slot.io.kind = IoOpKind::kBlkDiscard;
  } else if (discard || (request.may_unmap && unmap_zeroes_)) {
    slot.io.kind = IoOpKind::kFallocate;
    slot.io.fallocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  } else if (block_device_) {
    slot.io.kind = IoOpKind::kBlkZeroOut;
  } else if (zero_range_) {
    slot.io.kind = IoOpKind::kFallocate;
    slot.io.fallocate_mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  } else {
    slot.step = Step::kWriteZeroes;
    slot.io.kind = IoOpKind::kWrite;
    slot.io.dsync = request.durable;
    send_zero_piece(slot);
    return;
  }
  send(slot);
}

void FileDevice::send_zero_piece(Slot& slot) {
  if (zeroes_ == nullptr) {
    zeroes_ = aligned_memory(kZeroPieceBytes);
    if (zeroes_ == nullptr) {
      slot.io.result = -ENOMEM;
      thread_.defer(slot.io);
      return;
    }
    std::memset(zeroes_.get(), 0, kZeroPieceBytes);
  }
  const uint64_t rest = slot.request->length - slot.done_bytes;
  slot.own_iov = {.iov_base = zeroes_.get(), .iov_len = std::min<uint64_t>(rest, kZeroPieceBytes)};
  slot.io.iov = &slot.own_iov;
  slot.io.iov_count = 1;
  slot.io.offset = slot.request->offset + slot.done_bytes;
  send(slot);
}

void FileDevice::await_flush(Slot& slot) {
  slot.step = Step::kFlush;
  slot.next = std::exchange(awaiting_flush_, &slot);
  if (slot.shares_flush) {
    --moving_;
    ++writes_awaiting_;
  } else {
    others_awaiting_ = true;
  }
  thread_.call_at_batch_end(*this);
}

// A flush that only writes wait for also waits, until as many are there as are still on their way.
void FileDevice::batch_end() {
  if (flushing_ != nullptr || awaiting_flush_ == nullptr) return;
  if (!others_awaiting_ && writes_awaiting_ < moving_) return;
  flushing_ = std::exchange(awaiting_flush_, nullptr);
  writes_awaiting_ = 0;
  others_awaiting_ = false;
  flush_ended_ = ended_;
  flush_retries_ = 0;
  thread_.engine().submit(flush_);
}

void FileDevice::completed(IoOp& op) {
  Slot& slot = *static_cast<Slot*>(op.owner);
  FileDevice& device = *slot.device;
  if (op.result == -EINTR || op.result == -EAGAIN) {
    device.retry(slot, static_cast<int>(-op.result));
    return;
  }
  switch (slot.step) {
    case Step::kTransfer:
      device.transferred(slot);
      return;
    case Step::kBounce:
    case Step::kWriteZeroes:
      device.bounced(slot);
      return;
    case Step::kRange:
      device.range_ended(slot);
      return;
    case Step::kFlush:
      ENSURE(false);  // it is flush_ that completes
      return;
  }
}

// The operation came back without progress: the same again, but not for ever.
void FileDevice::retry(Slot& slot, int error) {
  if (++slot.retries > kRetriesWithoutProgress) {
    stop_sharing(slot);
    finish(slot, error);
  } else {
    send(slot);
  }
}

void FileDevice::transferred(Slot& slot) {
  const int64_t result = slot.io.result;
  if (slot.shares_flush && result == static_cast<int64_t>(slot.request->length)) {
    return await_flush(slot);
  }
  const bool shared = slot.shares_flush;
  stop_sharing(slot);
  if (result == -EINVAL) {
    slot.step = Step::kBounce;
    send_bounce(slot);
  } else if (result < 0) {
    finish(slot, static_cast<int>(-result));
  } else if (shared) {
    send(slot);  // all of it: should a flush fail, what was cut off here could not be sent again
  } else {
    advance(slot);
  }
}

// One piece of a bounced transfer, or of zeroes.
void FileDevice::bounced(Slot& slot) {
  if (slot.io.result < 0) {
    finish(slot, static_cast<int>(-slot.io.result));
  } else {
    advance(slot);
  }
}

// io.result bytes were moved, perhaps fewer than asked for: goes on behind them.
void FileDevice::advance(Slot& slot) {
  BlockRequest& request = *slot.request;
  // Nothing at all: the file ends here, it has shrunk under us.
  if (slot.io.result == 0) return finish(slot, EIO);
  // O_DIRECT goes on at block boundaries only; part of a block is moved again.
  const auto moved = static_cast<uint64_t>(slot.io.result);
  const uint64_t whole = moved - moved % info_.logical_block_size;
  if (whole == 0) return retry(slot, EIO);
  slot.retries = 0;
  slot.done_bytes += whole;
  if (slot.step == Step::kBounce) {
    std::byte* from = request.op == BlockOp::kRead ? slot.bounce.get() : nullptr;
    consume(request, whole, from, false);
  } else if (slot.step == Step::kTransfer && slot.done_bytes < request.length) {
    consume(request, whole, nullptr, false);
  }
  if (slot.done_bytes == request.length) {
    finish(slot, 0);
  } else if (slot.step == Step::kWriteZeroes) {
    send_zero_piece(slot);
  } else {
    start_transfer(slot);
  }
}

void FileDevice::range_ended(Slot& slot) {
  const BlockRequest& request = *slot.request;
  const int error = static_cast<int>(-slot.io.result);
  if (error == 0) {
    if (request.durable) return await_flush(slot);
    return finish(slot, 0);
  }
  const bool unsupported = error == EOPNOTSUPP || error == ENOSYS;
  const bool unmapped = (slot.io.fallocate_mode & FALLOC_FL_PUNCH_HOLE) != 0;
  if (request.op == BlockOp::kWriteZeroes && slot.io.kind == IoOpKind::kFallocate && unsupported) {
    (unmapped ? unmap_zeroes_ : zero_range_) = false;
    return start_range(slot);
  }
  finish(slot, error);
}

void FileDevice::flush_completed(IoOp& op) {
  FileDevice& device = *static_cast<FileDevice*>(op.owner);
  const bool again = op.result == -EINTR || op.result == -EAGAIN;
  if (again && ++device.flush_retries_ <= kRetriesWithoutProgress) {
    device.thread_.engine().submit(op);
  } else {
    device.flushed(op.result < 0 ? static_cast<int>(-op.result) : 0);
  }
}

// Not even a later flush that succeeds brings back what a failed one may have lost (the kernel
// drops the error once it was told, and a device its cache): neither changes that had ended, nor
// what was in flight and may have been reached. Without anything at stake it is an error like
// others. A write or range that began before any flush failed, and shares a later one, is to be
// sent again; else its flush tells all about it, as RWF_DSYNC does about a write.
void FileDevice::flushed(int error) {
  if (error == 0) {
    flushed_ = flush_ended_;
  } else {
    ++flushes_failed_;
    if (failed_flush_ == 0 && begun_ > flushed_) {
      failed_flush_ = error;
      log::error("{}: a flush failed, and every flush will fail until the disk is opened again: {}",
                 label_, std::strerror(error));
    }
  }
  Slot* slot = std::exchange(flushing_, nullptr);
  if (awaiting_flush_ != nullptr) thread_.call_at_batch_end(*this);
  while (slot != nullptr) {
    Slot& ended = *std::exchange(slot, slot->next);
    if (ended.request->op == BlockOp::kFlush) {
      finish(ended, failed_flush_ != 0 ? failed_flush_ : error);
    } else {
      finish(ended, error == 0 && ended.flushes_failed != flushes_failed_ ? EIO : error);
    }
  }
}

void FileDevice::finish(Slot& slot, int error) {
  BlockRequest& request = *slot.request;
  if (is_cached(request)) ++ended_;
  if (shared_flush_depth_ > 0 && request.op == BlockOp::kWrite && request.durable) {
    --durable_writes_;
  }
  if (error != 0) {
    // What was moved is not moved again when the request is sent again.
    request.offset += slot.done_bytes;
    request.length -= slot.done_bytes;
  }
  slot.bounce.reset();
  slot.request = nullptr;
  slot.next = std::exchange(free_, &slot);
  if (BlockRequest* waiting = waiting_.pop(); waiting != nullptr) {
    free_ = slot.next;
    start(slot, *waiting);
  }
  request.error = error;
  request.done(request);
}

Result<> FileDevice::reopen(UniqueFd fd, const FileFacts& facts) {
  const BlockInfo& info = facts.info;
  if (info.logical_block_size != info_.logical_block_size || facts.block_device != block_device_) {
    return failed("{} has blocks of {} bytes now, and had blocks of {}", label_,
                  info.logical_block_size, info_.logical_block_size);
  }
  if (info.size_bytes < info_.size_bytes) {
    return failed("{} has shrunk from {} to {} bytes", label_, info_.size_bytes, info.size_bytes);
  }
  thread_.engine().remove_file(file_);
  fd_ = std::move(fd);
  set_file();
  // Of buffers, and only known to this device.
  info_.memory_alignment = std::max(info_.memory_alignment, info.memory_alignment);
  return {};
}

Result<> FileDevice::reread_size() {
  const uint64_t size_bytes = TRY(file_size_bytes(fd_.get(), label_));
  if (size_bytes < info_.size_bytes) {
    return failed("{} has shrunk from {} to {} bytes; what was behind its end is lost", label_,
                  info_.size_bytes, size_bytes);
  }
  if (size_bytes % info_.logical_block_size != 0) {
    return failed("{} has {} bytes now, which is not a multiple of its block size {}", label_,
                  size_bytes, info_.logical_block_size);
  }
  info_.size_bytes = size_bytes;
  return {};
}

}  // namespace plumb
