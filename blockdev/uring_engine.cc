#include "blockdev/uring_engine.h"

#include <liburing.h>
#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/helper_thread.h"
#include "blockdev/limits.h"

namespace plumb {
namespace {

// What a completion belongs to is in the low bits of its user_data: an operation's address (0), a
// watch's token and generation, or nothing.
constexpr uint64_t kTagMask = 3;
constexpr uint64_t kTagWatch = 1;
constexpr uint64_t kTagNothing = 2;

class UringEngine final : public IoEngine {
 public:
  explicit UringEngine(HelperThread& helper) : helper_(helper) {}
  ~UringEngine() override {
    if (!set_up_) return;
    // The kernel takes a ring down later, on a thread of its own, and until then it would keep the
    // registered files open, with their locks and claims. Asked for by name it happens now.
    if (registered_files_) io_uring_unregister_files(&ring_);
    io_uring_queue_exit(&ring_);
  }

  Result<> set_up();

  const char* name() const override { return "io_uring"; }
  IoFile add_file(int fd) override;
  void remove_file(IoFile file) override;
  Result<> add_memory(std::span<const iovec> regions) override;
  void remove_memory() override;
  void submit(IoOp& op) override;
  void watch(uint32_t token, int fd, Trigger trigger) override;
  void unwatch(uint32_t token) override;
  void wait(int64_t until_ns, IoEvents& events) override;
  bool ready() const override;
  int64_t now_ns() const override { return monotonic_ns(); }

 private:
  struct Watch {
    int fd = -1;  // -1: not in use
    Trigger trigger = Trigger::kReadable;
    uint32_t generation = 0;
    bool armed = false;  // a poll is in the ring
  };

  static uint64_t watch_data(uint32_t token, uint32_t generation) {
    return (static_cast<uint64_t>(generation) << 32U) | (token << 2U) | kTagWatch;
  }

  Result<> restrict();
  io_uring_sqe* free_entry();
  int buffer_of(const iovec& part) const;
  void prepare_transfer(io_uring_sqe* entry, int fd, const IoOp& op) const;
  int enter(int64_t until_ns);
  void arm_watches();
  void take_completion(const io_uring_cqe& cqe, IoEvents& events);
  void take_watch_event(const io_uring_cqe& cqe, IoEvents& events);

  HelperThread& helper_;
  io_uring ring_{};
  bool set_up_ = false;
  IoOpList pending_;  // no free entry in the ring
  bool registered_files_ = false;
  std::array<bool, kRingFiles> slot_used_{};
  std::vector<iovec> buffers_;  // registered; few: a guest has two regions
  std::array<Watch, kWatches> watches_;
  uint32_t watch_end_ = 0;  // all watches in use are below
  bool arm_needed_ = false;
};

Result<> UringEngine::set_up() {
  // Newest first: deferred task work keeps completions out of the submitting path (6.1), then
  // what 6.0, 5.19 and 5.18 know. All start disabled, to be restricted first (5.10).
  // The flag tells ready() of work that only a system call brings in (5.19).
  constexpr unsigned kCooperative = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG;
  constexpr unsigned kAttempts[] = {
      kCooperative | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
      kCooperative | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
      kCooperative | IORING_SETUP_COOP_TASKRUN,
      IORING_SETUP_SUBMIT_ALL,
      0,
  };
  int error = 0;
  for (const unsigned flags : kAttempts) {
    io_uring_params params{};
    params.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;
    params.cq_entries = kRingCompletions;
    error = -io_uring_queue_init_params(kRingEntries, &ring_, &params);
    if (error == 0) {
      set_up_ = true;
      // Without the first a burst could lose completions, without the second no wait could end.
      constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;  // 5.11
      if ((params.features & kNeeded) != kNeeded) return failed("the kernel's io_uring is too old");
      break;
    }
    if (error != EINVAL) break;
  }
  if (error == EPERM) {
    return os_error(error, "io_uring is forbidden (kernel.io_uring_disabled, or a seccomp filter)");
  }
  if (error == ENOSYS) return os_error(error, "the kernel has no io_uring");
  if (error != 0) return os_error(error, "io_uring cannot be set up");
  registered_files_ = io_uring_register_files_sparse(&ring_, kRingFiles) == 0;
  TRY(restrict());
  io_uring_register_ring_fd(&ring_);  // saves a look-up per call; older kernels do without
  return {};
}

// No filter of system calls sees what goes through a ring: so the ring itself takes nothing but
// what this file puts into it (io_uring_register(2), IORING_REGISTER_RESTRICTIONS).
Result<> UringEngine::restrict() {
  constexpr uint8_t kOperations[] = {
      IORING_OP_READ,       IORING_OP_READV,       IORING_OP_WRITE, IORING_OP_WRITEV,
      IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC, IORING_OP_FALLOCATE,
      IORING_OP_POLL_ADD,   IORING_OP_POLL_REMOVE};
  constexpr uint8_t kRegistrations[] = {IORING_REGISTER_BUFFERS,      IORING_UNREGISTER_BUFFERS,
                                        IORING_REGISTER_FILES_UPDATE, IORING_UNREGISTER_FILES,
                                        IORING_REGISTER_RING_FDS,     IORING_UNREGISTER_RING_FDS,
                                        IORING_REGISTER_ENABLE_RINGS};
  std::vector<io_uring_restriction> allowed;
  for (const uint8_t operation : kOperations) {
    allowed.push_back({.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = operation});
  }
  for (const uint8_t registration : kRegistrations) {
    allowed.push_back({.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = registration});
  }
  allowed.push_back(
      {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE});
  int error = -io_uring_register_restrictions(&ring_, allowed.data(),
                                              static_cast<unsigned>(allowed.size()));
  if (error == 0) error = -io_uring_enable_rings(&ring_);
  if (error != 0) return os_error(error, "io_uring cannot be restricted to what plumb does");
  return {};
}

IoFile UringEngine::add_file(int fd) {
  for (unsigned slot = 0; registered_files_ && slot < kRingFiles; ++slot) {
    if (slot_used_[slot]) continue;
    if (io_uring_register_files_update(&ring_, slot, &fd, 1) != 1) break;
    slot_used_[slot] = true;
    return {.fd = fd, .slot = static_cast<int>(slot)};
  }
  return {.fd = fd, .slot = -1};
}

void UringEngine::remove_file(IoFile file) {
  if (file.slot < 0) return;
  const int none = -1;
  io_uring_register_files_update(&ring_, static_cast<unsigned>(file.slot), &none, 1);
  slot_used_[static_cast<size_t>(file.slot)] = false;
}

io_uring_sqe* UringEngine::free_entry() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry != nullptr) return entry;
  io_uring_submit(&ring_);
  return io_uring_get_sqe(&ring_);
}

Result<> UringEngine::add_memory(std::span<const iovec> regions) {
  ENSURE(buffers_.empty());
  for (const iovec& region : regions) {
    auto* at = static_cast<std::byte*>(region.iov_base);
    for (uint64_t left = region.iov_len; left > 0;) {
      const uint64_t bytes = std::min(left, kRingBufferBytes);
      buffers_.push_back({.iov_base = at, .iov_len = bytes});
      at += bytes;
      left -= bytes;
    }
  }
  const int error =
      -io_uring_register_buffers(&ring_, buffers_.data(), static_cast<unsigned>(buffers_.size()));
  if (error == 0) return {};
  buffers_.clear();
  if (error == ENOMEM) {
    return os_error(error, "memory cannot be registered with io_uring, raise RLIMIT_MEMLOCK");
  }
  return os_error(error, "memory cannot be registered with io_uring");
}

void UringEngine::remove_memory() {
  if (!buffers_.empty()) io_uring_unregister_buffers(&ring_);
  buffers_.clear();
}

// The registered buffer that holds all of `part`; -1: none.
int UringEngine::buffer_of(const iovec& part) const {
  const auto start = reinterpret_cast<uintptr_t>(part.iov_base);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const auto offset = start - reinterpret_cast<uintptr_t>(buffers_[i].iov_base);
    if (offset >= buffers_[i].iov_len) continue;
    return part.iov_len <= buffers_[i].iov_len - offset ? static_cast<int>(i) : -1;
  }
  return -1;
}

void UringEngine::prepare_transfer(io_uring_sqe* entry, int fd, const IoOp& op) const {
  const bool write = op.kind == IoOpKind::kWrite;
  if (op.iov_count == 1) {
    const auto length = static_cast<unsigned>(op.iov->iov_len);
    const int buffer = buffer_of(*op.iov);
    const int opcode = buffer >= 0 ? (write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED)
                                   : (write ? IORING_OP_WRITE : IORING_OP_READ);
    io_uring_prep_rw(opcode, entry, fd, op.iov->iov_base, length, op.offset);
    if (buffer >= 0) entry->buf_index = static_cast<uint16_t>(buffer);
  } else {
    io_uring_prep_rw(write ? IORING_OP_WRITEV : IORING_OP_READV, entry, fd, op.iov, op.iov_count,
                     op.offset);
  }
  if (write && op.dsync) entry->rw_flags = RWF_DSYNC;
}

void UringEngine::submit(IoOp& op) {
  if (op.kind == IoOpKind::kBlkDiscard || op.kind == IoOpKind::kBlkZeroOut) {
    helper_.submit(op);
    return;
  }
  io_uring_sqe* entry = pending_.empty() ? free_entry() : nullptr;
  if (entry == nullptr) {
    pending_.push(op);
    return;
  }
  const bool fixed = op.file.slot >= 0;
  const int fd = fixed ? op.file.slot : op.file.fd;
  switch (op.kind) {
    case IoOpKind::kRead:
    case IoOpKind::kWrite:
      prepare_transfer(entry, fd, op);
      break;
    case IoOpKind::kSync:
      io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
      break;
    default:
      io_uring_prep_fallocate(entry, fd, op.fallocate_mode, static_cast<off_t>(op.offset),
                              static_cast<off_t>(op.length));
      break;
  }
  if (fixed) entry->flags |= IOSQE_FIXED_FILE;
  io_uring_sqe_set_data(entry, &op);
}

void UringEngine::watch(uint32_t token, int fd, Trigger trigger) {
  ENSURE(token < kWatches && watches_[token].fd < 0);
  Watch& watch = watches_[token];
  watch.fd = fd;
  watch.trigger = trigger;
  watch.armed = false;
  if (token >= watch_end_) watch_end_ = token + 1;
  arm_needed_ = true;
}

void UringEngine::unwatch(uint32_t token) {
  Watch& watch = watches_[token];
  ENSURE(watch.fd >= 0);
  if (watch.armed) {
    io_uring_sqe* entry = free_entry();
    // Without an entry the poll stays in the ring until it fires; its generation is over.
    if (entry != nullptr) {
      io_uring_prep_poll_remove(entry, watch_data(token, watch.generation));
      io_uring_sqe_set_data64(entry, kTagNothing);
    }
  }
  watch.fd = -1;
  ++watch.generation;
}

void UringEngine::arm_watches() {
  if (!arm_needed_) return;
  arm_needed_ = false;
  for (uint32_t token = 0; token < watch_end_; ++token) {
    Watch& watch = watches_[token];
    if (watch.fd < 0 || watch.armed) continue;
    io_uring_sqe* entry = free_entry();
    if (entry == nullptr) {
      arm_needed_ = true;
      return;
    }
    // A multishot poll reports each signal of an eventfd, drained or not; a single poll armed
    // again each turn reports a state.
    if (watch.trigger == Trigger::kSignal) {
      io_uring_prep_poll_multishot(entry, watch.fd, POLLIN);
    } else {
      const unsigned in = watch.trigger == Trigger::kWritable ? 0 : POLLIN;
      const unsigned out = watch.trigger == Trigger::kReadable ? 0 : POLLOUT;
      io_uring_prep_poll_add(entry, watch.fd, in | out);
    }
    io_uring_sqe_set_data64(entry, watch_data(token, watch.generation));
    watch.armed = true;
  }
}

void UringEngine::take_watch_event(const io_uring_cqe& cqe, IoEvents& events) {
  const auto token = static_cast<uint32_t>(cqe.user_data & 0xffffffffU) >> 2U;
  Watch& watch = watches_[token];
  if (watch.fd < 0 || watch.generation != static_cast<uint32_t>(cqe.user_data >> 32U)) return;
  if ((cqe.flags & IORING_CQE_F_MORE) == 0) {
    watch.armed = false;
    arm_needed_ = true;
  }
  if (cqe.res < 0 && cqe.res != -ECANCELED && cqe.res != -EAGAIN && cqe.res != -EINTR) {
    log::error("a watched file descriptor cannot be polled: {}", std::strerror(-cqe.res));
    watch.armed = true;  // not again
  }
  events.ready.push_back(token);
}

void UringEngine::take_completion(const io_uring_cqe& cqe, IoEvents& events) {
  const uint64_t tag = cqe.user_data & kTagMask;
  if (tag == kTagWatch) {
    take_watch_event(cqe, events);
  } else if (tag == 0) {
    // SAFETY: submit() put the address of an operation there, which lives until its done().
    auto* op = static_cast<IoOp*>(io_uring_cqe_get_data(&cqe));
    op->result = cqe.res;
    events.completed.push(*op);
  }
}

bool UringEngine::ready() const {
  if (!pending_.empty() || io_uring_cq_ready(&ring_) > 0) return true;
  const unsigned flags = IO_URING_READ_ONCE(*ring_.sq.kflags);
  return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

// Submits, and waits for one completion at most until `until_ns`.
int UringEngine::enter(int64_t until_ns) {
  if (until_ns == kNoWait) return io_uring_submit_and_get_events(&ring_);
  if (until_ns == kForever) return io_uring_submit_and_wait(&ring_, 1);
  const int64_t left_ns = std::max<int64_t>(until_ns - now_ns(), 0);
  __kernel_timespec timeout{.tv_sec = left_ns / 1'000'000'000, .tv_nsec = left_ns % 1'000'000'000};
  io_uring_cqe* first = nullptr;
  const int result = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr);
  return result == -ETIME ? 0 : result;
}

void UringEngine::wait(int64_t until_ns, IoEvents& events) {
  arm_watches();
  IoOpList waiting;
  waiting.push_all(pending_);
  while (IoOp* op = waiting.pop()) submit(*op);

  const int result = enter(until_ns);
  // EAGAIN and EBUSY: short of memory or completions not reaped; what is not submitted stays in
  // the ring and goes with the next call.
  const bool passing = result == -EINTR || result == -EAGAIN || result == -EBUSY;
  if (result < 0 && !passing) {
    log::error("io_uring failed: {}", std::strerror(-result));
    ENSURE(result >= 0);
  }
  unsigned head = 0;
  unsigned count = 0;
  io_uring_cqe* cqe = nullptr;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    take_completion(*cqe, events);
    ++count;
  }
  io_uring_cq_advance(&ring_, count);
}

}  // namespace

Result<std::unique_ptr<IoEngine>> make_uring_engine(HelperThread& helper) {
  if (read_attribute("/proc/sys/kernel/io_uring_disabled") == "2") {
    return failed("io_uring is forbidden by the sysctl kernel.io_uring_disabled=2");
  }
  auto engine = std::make_unique<UringEngine>(helper);
  TRY(engine->set_up());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace plumb
