#include "blockdev/helper_thread.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"

namespace plumb {
namespace {

int64_t negative_errno(int64_t result) { return result < 0 ? -errno : result; }

int64_t block_ioctl(const IoOp& op, unsigned long request) {
  uint64_t range[2] = {op.offset, op.length};
  return negative_errno(::ioctl(op.file.fd, request, range));
}

}  // namespace

int64_t do_blocking(const IoOp& op) {
  const int fd = op.file.fd;
  const auto offset = static_cast<off_t>(op.offset);
  switch (op.kind) {
    case IoOpKind::kRead:
      return negative_errno(::preadv(fd, op.iov, static_cast<int>(op.iov_count), offset));
    case IoOpKind::kWrite:
      return negative_errno(
          ::pwritev2(fd, op.iov, static_cast<int>(op.iov_count), offset, op.dsync ? RWF_DSYNC : 0));
    case IoOpKind::kSync:
      return negative_errno(::fdatasync(fd));
    case IoOpKind::kFallocate:
      return negative_errno(
          ::fallocate(fd, op.fallocate_mode, offset, static_cast<off_t>(op.length)));
    case IoOpKind::kBlkDiscard:
      return block_ioctl(op, BLKDISCARD);
    case IoOpKind::kBlkZeroOut:
      return block_ioctl(op, BLKZEROOUT);
  }
  return -EINVAL;
}

HelperThread::~HelperThread() {
  {
    const std::lock_guard lock(mutex_);
    ENSURE(waiting_.empty());
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void HelperThread::submit(IoOp& op) {
  if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  {
    const std::lock_guard lock(mutex_);
    waiting_.push(op);
  }
  wake_.notify_one();
}

void HelperThread::collect(IoOpList& completed) {
  const std::lock_guard lock(mutex_);
  completed.push_all(finished_);
}

void HelperThread::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    IoOp* op = waiting_.pop();
    if (op == nullptr) return;
    lock.unlock();
    op->result = do_blocking(*op);
    lock.lock();
    finished_.push(*op);
    signal_eventfd(event_fd_);
  }
}

}  // namespace plumb
