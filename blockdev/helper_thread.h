// HelperThread: does, one after the other, the operations that have no asynchronous form in the
// kernel (BLKDISCARD, BLKZEROOUT; with Linux AIO also fallocate), so that the loop never blocks.
//
// The thread starts with the first operation. What waits is bounded by the operations that the
// devices own.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/unique_fd.h"
#include "blockdev/io_engine.h"

namespace plumb {

class HelperThread {
 public:
  // `event_fd` is an eventfd, kept open by the caller: signalled when operations have ended.
  explicit HelperThread(int event_fd) : event_fd_(event_fd) {}
  // Nothing may be in flight.
  ~HelperThread();
  HelperThread(const HelperThread&) = delete;
  HelperThread& operator=(const HelperThread&) = delete;

  // Only on the I/O thread.
  void submit(IoOp& op);
  // Appends what has ended. Only on the I/O thread.
  void collect(IoOpList& completed);

 private:
  void work();

  const int event_fd_;
  std::mutex mutex_;
  std::condition_variable wake_;
  IoOpList waiting_;   // guarded by mutex_
  IoOpList finished_;  // guarded by mutex_
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

// Does `op` with blocking system calls; returns what IoOp::result is to be.
int64_t do_blocking(const IoOp& op);

}  // namespace plumb
