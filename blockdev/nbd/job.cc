#include "blockdev/nbd/job.h"

#include <algorithm>

namespace plumb::nbd {
namespace {

constexpr uint64_t kReadAlignment = 4096;  // of every device

uint64_t round_down(uint64_t value) { return value / kReadAlignment * kReadAlignment; }
uint64_t round_up(uint64_t value) { return round_down(value + kReadAlignment - 1); }

}  // namespace

struct Job::Piece : BlockRequest {
  iovec memory{};
  Job* job = nullptr;
};

Job::Job(const Request& request, Disk& disk, Ended ended, void* owner)
    : request_(request),
      disk_(disk),
      ended_(ended),
      owner_(owner),
      extents_(std::max<uint64_t>(request.length, 1), 1) {
  extents_.add(request.length, 0);
}

Job::~Job() { ENSURE(running_ == 0); }

bool Job::allocate() {
  const bool read = request_.command == kRead;
  begin_ = read ? round_down(request_.offset) : request_.offset;
  const uint64_t end =
      read ? std::min(round_up(request_.end()), disk_.info().size_bytes) : request_.end();
  memory_bytes_ = end - begin_;
  memory_ = aligned_memory(memory_bytes_);
  data_ = memory_.get() + (request_.offset - begin_);
  return memory_ != nullptr;
}

std::span<std::byte> Job::data() { return {data_, request_.length}; }

void Job::start() {
  switch (request_.command) {
    case kRead:
      return start_read();
    case kTrim:
    case kWriteZeroes:
      pieces_.emplace_back().job = this;
      return send_range();
    default:
      break;
  }
  Piece& piece = pieces_.emplace_back();
  piece.job = this;
  piece.op = request_.command == kWrite ? BlockOp::kWrite : BlockOp::kFlush;
  piece.durable = request_.command == kWrite && (request_.flags & kFua) != 0;
  piece.offset = request_.offset;
  piece.length = request_.length;
  if (request_.command == kWrite) {
    piece.memory = {data_, request_.length};
    piece.iov = &piece.memory;
    piece.iov_count = 1;
  }
  piece.done = piece_done;
  running_ = 1;
  disk_.submit(piece);
}

// Of the widened request; two that touch are one.
void Job::add_read(uint64_t offset, uint64_t length) {
  const uint64_t begin = round_down(offset);
  const uint64_t end = std::min(round_up(offset + length), begin_ + memory_bytes_);
  if (!pieces_.empty() && pieces_.back().offset + pieces_.back().length >= begin) {
    Piece& before = pieces_.back();
    before.length = end - before.offset;
    before.memory.iov_len = before.length;
    return;
  }
  Piece& piece = pieces_.emplace_back();
  piece.job = this;
  piece.op = BlockOp::kRead;
  piece.offset = begin;
  piece.length = end - begin;
  piece.memory = {memory_.get() + (begin - begin_), end - begin};
  piece.iov = &piece.memory;
  piece.iov_count = 1;
  piece.done = piece_done;
}

void Job::start_read() {
  uint64_t at = request_.offset;
  for (const Extent& extent : extents_.extents()) {
    if ((extent.flags & kZero) == 0) add_read(at, extent.length);
    at += extent.length;
  }
  running_ = pieces_.size();
  // Nothing ends in here: the last piece is still to be sent.
  for (Piece& piece : pieces_) disk_.submit(piece);
}

void Job::note_error(const BlockRequest& request) {
  if (request.error == 0 || error_ != 0) return;
  error_ = request.error;
  error_offset_ = std::clamp(request.offset, request_.offset, request_.end() - 1);
}

void Job::piece_done(BlockRequest& request) {
  Job& self = *static_cast<Piece&>(request).job;
  if (request.op != BlockOp::kFlush) {
    self.note_error(request);
  } else {
    self.error_ = request.error;
  }
  if (--self.running_ == 0) self.ended_(self, self.owner_);
}

// ---- ranges: as much at a time as the disk takes ------------------------------------------------

uint64_t Job::range_limit() const {
  const BlockInfo& info = disk_.info();
  const uint64_t most =
      request_.command == kTrim ? info.max_discard_bytes : info.max_write_zeroes_bytes;
  return std::max<uint64_t>(most / info.logical_block_size * info.logical_block_size,
                            info.logical_block_size);
}

void Job::send_range() {
  Piece& piece = pieces_.front();
  piece.op = request_.command == kTrim ? BlockOp::kDiscard : BlockOp::kWriteZeroes;
  piece.durable = (request_.flags & kFua) != 0;
  piece.may_unmap = (request_.flags & kNoHole) == 0;
  piece.offset = request_.offset + range_done_;
  piece.length = std::min(request_.length - range_done_, range_limit());
  piece.done = range_done;
  running_ = 1;
  disk_.submit(piece);
}

void Job::range_done(BlockRequest& request) {
  Job& self = *static_cast<Piece&>(request).job;
  self.running_ = 0;
  self.note_error(request);
  self.range_done_ += request.length;
  if (request.error == 0 && self.range_done_ < self.request_.length) return self.send_range();
  self.ended_(self, self.owner_);
}

}  // namespace plumb::nbd
