#include "blockdev/libaio_engine.h"

#include <libaio.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/helper_thread.h"
#include "blockdev/limits.h"

namespace plumb {
namespace {

constexpr uint32_t kCompletionToken = kWatches;  // the eventfd that the kernel signals
constexpr int kEventsPerCall = 64;

// For epoll_wait(2), rounded up: a timer that is looked at too early would be looked at again.
int milliseconds_until(int64_t until_ns) {
  if (until_ns == kNoWait) return 0;
  if (until_ns == kForever) return -1;
  const int64_t left_ns = std::max<int64_t>(until_ns - monotonic_ns(), 0);
  return static_cast<int>(std::min<int64_t>((left_ns + 999'999) / 1'000'000, INT_MAX));
}

class LibaioEngine final : public IoEngine {
 public:
  explicit LibaioEngine(HelperThread& helper) : helper_(helper) {}
  ~LibaioEngine() override {
    if (context_ != nullptr) io_destroy(context_);
  }

  Result<> set_up();

  const char* name() const override { return "libaio"; }
  IoFile add_file(int fd) override { return {.fd = fd, .slot = -1}; }
  void remove_file(IoFile) override {}
  Result<> add_memory(std::span<const iovec>) override {
    return failed("Linux AIO knows no registered memory; use the engine io_uring");
  }
  void remove_memory() override {}
  void submit(IoOp& op) override;
  void watch(uint32_t token, int fd, Trigger trigger) override;
  void unwatch(uint32_t token) override;
  void wait(int64_t until_ns, IoEvents& events) override;
  // Of completions only the kernel knows.
  bool ready() const override { return !failed_.empty(); }
  int64_t now_ns() const override { return monotonic_ns(); }

 private:
  iocb* prepare(IoOp& op);
  void give_back(iocb* control) { free_[free_count_++] = control; }
  void refused(iocb* control, int error);
  void submit_batch();
  void reap(IoEvents& events);

  HelperThread& helper_;
  io_context_t context_ = nullptr;
  UniqueFd completion_fd_;
  UniqueFd epoll_;
  bool sync_supported_ = true;

  IoOpList pending_;  // taken, not yet given to the kernel
  IoOpList failed_;   // refused by io_submit; come back in the next wait()
  std::array<iocb, kAioEvents> controls_{};
  std::array<iocb*, kAioEvents> free_{};
  size_t free_count_ = 0;
  std::array<int, kWatches> watched_{};
};

Result<> LibaioEngine::set_up() {
  if (const int error = -io_setup(static_cast<int>(kAioEvents), &context_); error != 0) {
    context_ = nullptr;
    if (error == EAGAIN) return os_error(error, "Linux AIO is exhausted, raise fs.aio-max-nr");
    return os_error(error, "Linux AIO cannot be set up");
  }
  completion_fd_ = TRY(make_eventfd());
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return os_error(errno, "epoll cannot be set up");
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;  // so it need not be drained
  event.data.u32 = kCompletionToken;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, completion_fd_.get(), &event) != 0) {
    return os_error(errno, "epoll cannot watch the completions of Linux AIO");
  }
  for (iocb& control : controls_) give_back(&control);
  watched_.fill(-1);
  return {};
}

void LibaioEngine::submit(IoOp& op) {
  const bool transfer = op.kind == IoOpKind::kRead || op.kind == IoOpKind::kWrite;
  if (transfer || (op.kind == IoOpKind::kSync && sync_supported_)) {
    pending_.push(op);
  } else {
    helper_.submit(op);
  }
}

iocb* LibaioEngine::prepare(IoOp& op) {
  iocb* control = free_[--free_count_];
  const auto offset = static_cast<long long>(op.offset);
  const auto count = static_cast<int>(op.iov_count);
  if (op.kind == IoOpKind::kSync) {
    io_prep_fdsync(control, op.file.fd);
  } else if (op.kind == IoOpKind::kRead) {
    io_prep_preadv(control, op.file.fd, op.iov, count, offset);
  } else {
    io_prep_pwritev(control, op.file.fd, op.iov, count, offset);
    control->aio_rw_flags = op.dsync ? RWF_DSYNC : 0;
  }
  io_set_eventfd(control, completion_fd_.get());
  control->data = &op;
  return control;
}

// io_submit refused the first of a batch with `error`.
void LibaioEngine::refused(iocb* control, int error) {
  auto* op = static_cast<IoOp*>(control->data);
  give_back(control);
  if (op->kind == IoOpKind::kSync && error == EINVAL) {
    // Kernels before 4.18, and files without an asynchronous fsync.
    sync_supported_ = false;
    helper_.submit(*op);
    return;
  }
  op->result = -error;
  failed_.push(*op);
}

void LibaioEngine::submit_batch() {
  std::array<iocb*, kAioEvents> batch;
  size_t count = 0;
  while (free_count_ > 0 && !pending_.empty()) batch[count++] = prepare(*pending_.pop());
  size_t done = 0;
  while (done < count) {
    const int result = io_submit(context_, static_cast<long>(count - done), &batch[done]);
    if (result > 0) {
      done += static_cast<size_t>(result);
    } else if (result != -EINTR) {
      // Also EAGAIN, which the device retries: nothing waits here for a completion that may
      // never come.
      refused(batch[done], result == 0 ? EAGAIN : -result);
      ++done;
    }
  }
}

void LibaioEngine::watch(uint32_t token, int fd, Trigger trigger) {
  ENSURE(token < kWatches && watched_[token] < 0);
  epoll_event event{};
  event.events = trigger == Trigger::kWritable ? 0U : EPOLLIN;
  // Edge triggered, each signal of an eventfd is reported once, drained or not.
  if (trigger == Trigger::kSignal) event.events |= EPOLLET;
  if (trigger == Trigger::kReadableOrWritable || trigger == Trigger::kWritable) {
    event.events |= EPOLLOUT;
  }
  event.data.u32 = token;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    log::error("a file descriptor cannot be watched: {}", std::strerror(errno));
    return;
  }
  watched_[token] = fd;
}

void LibaioEngine::unwatch(uint32_t token) {
  if (watched_[token] < 0) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched_[token], nullptr);
  watched_[token] = -1;
}

void LibaioEngine::reap(IoEvents& events) {
  std::array<io_event, kEventsPerCall> completions;
  int count = kEventsPerCall;
  while (count == kEventsPerCall) {
    timespec now{};
    count = io_getevents(context_, 0, kEventsPerCall, completions.data(), &now);
    for (int i = 0; i < count; ++i) {
      const io_event& completion = completions[static_cast<size_t>(i)];
      auto* op = static_cast<IoOp*>(completion.data);
      op->result = static_cast<long>(completion.res);
      give_back(completion.obj);
      events.completed.push(*op);
    }
  }
}

void LibaioEngine::wait(int64_t until_ns, IoEvents& events) {
  submit_batch();
  if (!failed_.empty()) until_ns = kNoWait;
  std::array<epoll_event, kEventsPerCall> ready;
  const int count =
      ::epoll_wait(epoll_.get(), ready.data(), kEventsPerCall, milliseconds_until(until_ns));
  if (count < 0 && errno != EINTR) {
    log::error("epoll failed: {}", std::strerror(errno));
    ENSURE(count >= 0);
  }
  for (int i = 0; i < count; ++i) {
    const uint32_t token = ready[static_cast<size_t>(i)].data.u32;
    if (token == kCompletionToken) {
      reap(events);
    } else {
      events.ready.push_back(token);
    }
  }
  events.completed.push_all(failed_);
}

}  // namespace

Result<std::unique_ptr<IoEngine>> make_libaio_engine(HelperThread& helper) {
  auto engine = std::make_unique<LibaioEngine>(helper);
  TRY(engine->set_up());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace plumb
