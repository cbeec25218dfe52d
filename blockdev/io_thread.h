// IoThread: one thread, one ring, one loop; all I/O of a disk (or of a group of devices)
// happens on it, so nothing on the data path needs a lock.
//
// One turn of the loop: wait for events and completions in one system call (which also submits
// what the last turn queued) → run posted tasks → run fd handlers → run completions → run
// batch-end calls. Completions are collected first and run afterwards: never inside submit(), and
// no loop nests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

class IoEngine;
struct IoOp;

enum class EngineKind : uint8_t {
  kAuto,    // io_uring where it works, else libaio; the reason is logged
  kUring,   // io_uring (liburing)
  kLibaio,  // Linux AIO
};

// "auto", "io_uring", "libaio"; a usage error names the three for anything else.
Result<EngineKind> parse_engine_kind(std::string_view text);

// Something that wants one call at the end of a turn of the loop, however many completions the
// turn brought: a device publishes its used ring and raises its interrupt there, once.
class BatchEnd {
 public:
  virtual ~BatchEnd() = default;
  virtual void batch_end() = 0;

 private:
  friend class IoThread;
  bool asked_ = false;
};

class IoThread {
 public:
  struct Config {
    std::string name;  // of the thread, at most 15 characters: "io-data"
    EngineKind engine = EngineKind::kAuto;
    std::vector<int> cpus;  // where it may run; empty: anywhere
    // For tests: puts a layer between the devices and the engine. Called on the new thread.
    std::function<std::unique_ptr<IoEngine>(std::unique_ptr<IoEngine>)> decorate;
  };
  using Task = std::move_only_function<void()>;

  // Starts the thread. Errors: the engine asked for does not work here (with its reason).
  static Result<std::unique_ptr<IoThread>> start(Config config);
  // Ends the loop and joins. No request may be in flight and nothing watched.
  ~IoThread();
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  // "io_uring" or "libaio", and why it was chosen. Any thread.
  const std::string& engine_name() const;
  const std::string& engine_reason() const;

  // Runs `task` on this thread, soon, in the order posted. Any thread.
  void post(Task task);
  // Runs `task` on this thread and waits for its end; directly when called on this thread.
  void run(Task task);
  // Whether the caller is this thread.
  bool is_current() const;

  // --- Only on this thread ---

  // Calls `ready` on each turn in which fd is readable (and, `writable` set, or writable). For an
  // eventfd the caller drains the counter itself. One watch per fd.
  void watch(int fd, std::function<void()> ready, bool writable = false);
  // Calls `signalled` after each signal of an eventfd, once for several that come together, and
  // saves the caller the system call that drains it. Called at once when it was signalled before.
  void watch_signal(int fd, std::function<void()> signalled);
  // After this returns, the call-back of watch() or watch_signal() is not called again.
  void unwatch(int fd);

  // Calls op.done() from the loop, later in this turn or in the next, without any I/O: for what
  // ends at once but not inside submit(), and for what goes on after others had their turn.
  void defer(IoOp& op);

  // One batch_end() call at the end of this turn of the loop, however often asked.
  void call_at_batch_end(BatchEnd& listener);

  IoEngine& engine();

 private:
  struct State;
  explicit IoThread(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace plumb
