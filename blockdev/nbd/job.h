// Job: a client's request while the disk works at it.
#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "base/aligned_memory.h"
#include "blockdev/disk.h"
#include "blockdev/nbd/extents.h"
#include "blockdev/nbd/protocol.h"

namespace plumb::nbd {

// Only on the disk's I/O thread.
class Job {
 public:
  // All is at rest again: later, from the loop. The job may be destroyed there.
  using Ended = void (*)(Job& job, void* owner);

  // `request`: one that refusal() lets pass, of the disk's own size.
  Job(const Request& request, Disk& disk, Ended ended, void* owner);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const Request& request() const { return request_; }
  // Of a read or write: takes the memory. False: there is none.
  bool allocate();
  uint64_t held_bytes() const { return memory_bytes_; }
  // What a read has read, and a write writes: as long as the request.
  std::span<std::byte> data();
  // Gives the memory up; data() stays where it was.
  AlignedMemory take_memory() { return std::move(memory_); }

  // What a read reads: all but the zeroes among these, which follow each other from the request's
  // offset on. Before start().
  void set_extents(ExtentList extents) { extents_ = std::move(extents); }
  std::span<const Extent> extents() const { return extents_.extents(); }

  // Sends it, as one request of the disk or as several; a write has its data now.
  void start();

  // Once ended: 0, or the errno of the first that failed, and where that was.
  int error() const { return error_; }
  uint64_t error_offset() const { return error_offset_; }

 private:
  struct Piece;
  static void piece_done(BlockRequest& request);
  static void range_done(BlockRequest& request);
  void add_read(uint64_t offset, uint64_t length);
  void start_read();
  void send_range();
  void note_error(const BlockRequest& request);
  uint64_t range_limit() const;

  const Request request_;
  Disk& disk_;
  const Ended ended_;
  void* const owner_;
  uint64_t begin_ = 0;  // of a read: the request, widened to what every device can read
  AlignedMemory memory_;
  std::byte* data_ = nullptr;
  uint64_t memory_bytes_ = 0;
  ExtentList extents_;
  std::deque<Piece> pieces_;
  size_t running_ = 0;
  uint64_t range_done_ = 0;  // bytes of a trim, or of zeroes
  int error_ = 0;
  uint64_t error_offset_ = 0;
};

}  // namespace plumb::nbd
