// An engine decorator that notes every operation that goes down and can make some of them fail,
// end short, or wait. Its methods for the test may be called from any thread.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "blockdev/helper_thread.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"

namespace plumb {

class EngineLog {
 public:
  struct Entry {
    IoOpKind kind;
    bool dsync;
    int fallocate_mode;
    uint64_t offset;
    uint64_t bytes;
    bool operator==(const Entry&) const = default;
  };
  struct Fault {
    IoOpKind kind;
    int64_t result;         // what the operation ends with instead of being done …
    bool transfer = false;  // … or, for kRead and kWrite: after moving only `result` bytes
  };

  // What went down so far; forgets it.
  std::vector<Entry> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(entries_, {});
  }
  // The next operation of that kind meets `fault`, `times` times.
  void inject(Fault fault, unsigned times = 1) {
    const std::lock_guard lock(mutex_);
    faults_.insert(faults_.end(), times, fault);
  }

  // Whether operations wait, as at a device without a path. Those that do are done in the thread's
  // first turn after the end of it.
  void keep_back(bool waits) { keeps_back_ = waits; }
  bool keeps_back() const { return keeps_back_; }

  void note(const IoOp& op) {
    uint64_t bytes = op.length;
    const bool transfer = op.kind == IoOpKind::kRead || op.kind == IoOpKind::kWrite;
    if (transfer) {
      bytes = 0;
      for (uint32_t i = 0; i < op.iov_count; ++i) bytes += op.iov[i].iov_len;
    }
    if (op.kind == IoOpKind::kSync) bytes = 0;
    const std::lock_guard lock(mutex_);
    entries_.push_back({.kind = op.kind,
                        .dsync = op.kind == IoOpKind::kWrite && op.dsync,
                        .fallocate_mode = op.kind == IoOpKind::kFallocate ? op.fallocate_mode : 0,
                        .offset = op.kind == IoOpKind::kSync ? 0 : op.offset,
                        .bytes = bytes});
  }
  bool take_fault(IoOpKind kind, Fault& fault) {
    const std::lock_guard lock(mutex_);
    for (auto at = faults_.begin(); at != faults_.end(); ++at) {
      if (at->kind != kind) continue;
      fault = *at;
      faults_.erase(at);
      return true;
    }
    return false;
  }

 private:
  std::mutex mutex_;
  std::vector<Entry> entries_;
  std::deque<Fault> faults_;
  std::atomic<bool> keeps_back_ = false;
};

class RecordingEngine final : public IoEngine {
 public:
  RecordingEngine(std::unique_ptr<IoEngine> below, EngineLog& log)
      : below_(std::move(below)), log_(log) {}

  const char* name() const override { return below_->name(); }
  IoFile add_file(int fd) override { return below_->add_file(fd); }
  void remove_file(IoFile file) override { below_->remove_file(file); }
  Result<> add_memory(std::span<const iovec> regions) override {
    return below_->add_memory(regions);
  }
  void remove_memory() override { below_->remove_memory(); }
  void watch(uint32_t token, int fd, Trigger trigger) override {
    below_->watch(token, fd, trigger);
  }
  void unwatch(uint32_t token) override { below_->unwatch(token); }

  void submit(IoOp& op) override {
    log_.note(op);
    if (log_.keeps_back()) return kept_.push(op);
    EngineLog::Fault fault{};
    if (!log_.take_fault(op.kind, fault)) {
      below_->submit(op);
      return;
    }
    op.result =
        fault.transfer ? transfer_part(op, static_cast<uint64_t>(fault.result)) : fault.result;
    ended_.push(op);
  }
  void wait(int64_t until_ns, IoEvents& events) override {
    while (!log_.keeps_back() && !kept_.empty()) below_->submit(*kept_.pop());
    below_->wait(ended_.empty() ? until_ns : kNoWait, events);
    events.completed.push_all(ended_);
  }
  bool ready() const override { return !ended_.empty() || below_->ready(); }
  int64_t now_ns() const override { return below_->now_ns(); }

 private:
  static int64_t transfer_part(const IoOp& op, uint64_t bytes) {
    std::vector<iovec> parts;
    for (uint32_t i = 0; i < op.iov_count && bytes > 0; ++i) {
      parts.push_back({op.iov[i].iov_base, std::min<size_t>(bytes, op.iov[i].iov_len)});
      bytes -= parts.back().iov_len;
    }
    IoOp part;
    part.kind = op.kind;
    part.file = op.file;
    part.offset = op.offset;
    part.iov = parts.data();
    part.iov_count = static_cast<uint32_t>(parts.size());
    return do_blocking(part);
  }

  std::unique_ptr<IoEngine> below_;
  EngineLog& log_;
  IoOpList ended_;
  IoOpList kept_;
};

// An I/O thread whose engine reports to `log`, which outlives it.
inline std::unique_ptr<IoThread> recording_thread(EngineKind kind, EngineLog& log) {
  IoThread::Config config;
  config.name = "io-test";
  config.engine = kind;
  config.decorate = [&log](std::unique_ptr<IoEngine> below) -> std::unique_ptr<IoEngine> {
    return std::make_unique<RecordingEngine>(std::move(below), log);
  };
  return IoThread::start(std::move(config)).value();
}

}  // namespace plumb
