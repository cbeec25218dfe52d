// IoEngine: the seam between the loop of an I/O thread and the kernel interface under it
// (io_uring, Linux AIO). Operations are collected by submit() and go to the kernel together, in
// the one system call of wait().
//
// All methods run on the engine's I/O thread, which also makes and destroys it.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace plumb {

// A file made known to an engine by add_file().
struct IoFile {
  int fd = -1;
  int slot = -1;  // in the engine's table of registered files; -1: none, the fd is used
};

enum class IoOpKind : uint8_t {
  kRead,        // iov, offset
  kWrite,       // iov, offset, dsync
  kSync,        // fdatasync
  kFallocate,   // mode, offset, length
  kBlkDiscard,  // ioctl BLKDISCARD of offset, length
  kBlkZeroOut,  // ioctl BLKZEROOUT of offset, length
};

// One operation. The submitter owns it; it, its iovecs and its buffers stay until done().
struct IoOp {
  using Done = void (*)(IoOp&);

  IoOpKind kind = IoOpKind::kRead;
  bool dsync = false;      // kWrite: RWF_DSYNC, on the medium before it completes
  int fallocate_mode = 0;  // FALLOC_FL_…
  IoFile file;
  iovec* iov = nullptr;
  uint32_t iov_count = 0;
  uint64_t offset = 0;
  uint64_t length = 0;  // for the kinds without iov

  Done done = nullptr;
  int64_t result = 0;  // set before done(): bytes moved, 0, or a negative errno

  void* owner = nullptr;  // the submitter's own
  IoOp* next = nullptr;   // for whichever list holds it now
};

// A FIFO of operations, without memory of its own.
class IoOpList {
 public:
  bool empty() const { return first_ == nullptr; }
  void push(IoOp& op) {
    op.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &op;
    last_ = &op;
  }
  // nullptr when empty.
  IoOp* pop() {
    IoOp* op = first_;
    if (op != nullptr) first_ = op->next;
    return op;
  }
  void push_all(IoOpList& other) {
    while (IoOp* op = other.pop()) push(*op);
  }

 private:
  IoOp* first_ = nullptr;
  IoOp* last_ = nullptr;
};

// What a wait() brought. The loop owns and reuses it, so that nothing is allocated per turn.
struct IoEvents {
  IoOpList completed;           // result is set; the loop calls done()
  std::vector<uint32_t> ready;  // tokens of the watches that fired
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;

  // "io_uring" or "libaio".
  virtual const char* name() const = 0;

  // Makes `fd`, which the caller keeps open, known for operations. Never fails: without room in
  // the table of registered files the plain descriptor is used.
  virtual IoFile add_file(int fd) = 0;
  // No operation on it may be in flight.
  virtual void remove_file(IoFile file) = 0;

  // Makes memory known that most operations will use, such as a guest's: the kernel pins it, and
  // each operation with one buffer inside is cheaper. One memory at a time, of `regions` that stay
  // until remove_memory(). Errors: the engine cannot, or RLIMIT_MEMLOCK is too low; then nothing
  // has changed.
  virtual Result<> add_memory(std::span<const iovec> regions) = 0;
  // No operation may be in flight. Harmless without a memory.
  virtual void remove_memory() = 0;

  // Takes `op`; it comes back once by a later wait(). Without room in the kernel it waits here,
  // in order: there is no "full".
  virtual void submit(IoOp& op) = 0;

  enum class Trigger : uint8_t {
    kReadable,            // each turn while readable
    kReadableOrWritable,  // each turn while readable or writable
    kWritable,            // each turn while writable
    kSignal,              // once for each signal of an eventfd that nobody drains
  };
  // Reports `token` (below kWatches, one watch each) in IoEvents::ready when `fd` is.
  virtual void watch(uint32_t token, int fd, Trigger trigger) = 0;
  // The token is not reported any more, also not for what already happened.
  virtual void unwatch(uint32_t token) = 0;

  // Submits what was taken, and waits until something completes or is ready, at the latest until
  // `until_ns` on the clock of now_ns(): kNoWait does not wait, kForever has no end. Appends to
  // `events`. An error of the kernel interface itself is a bug or a host out of resources: it ends
  // the process with a message.
  virtual void wait(int64_t until_ns, IoEvents& events) = 0;

  // Whether wait() would bring something, as far as that can be seen without a system call.
  virtual bool ready() const = 0;

  // Nanoseconds of a clock that only goes forwards.
  virtual int64_t now_ns() const = 0;
};

inline constexpr int64_t kNoWait = 0;
inline constexpr int64_t kForever = INT64_MAX;

// CLOCK_MONOTONIC: now_ns() of an engine on the real clock.
int64_t monotonic_ns();

}  // namespace plumb
