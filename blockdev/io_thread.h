// IoThread: one thread, one ring, one loop; all I/O of a disk (or of a group of devices)
// happens on it, so nothing on the data path needs a lock.
//
// io_loop.h tells what a turn of the loop does. Completions are collected first and run afterwards:
// never inside submit(), and no loop nests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"

namespace plumb {

class IoEngine;
class IoLoop;
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
  friend class IoLoop;
  bool asked_ = false;
};

// Something whose work appears in memory that it shares with a guest.
class Poller {
 public:
  virtual ~Poller() = default;
  // Takes what is there; returns whether there was anything.
  virtual bool poll() = 0;
  // The loop is about to sleep: takes what is there, and has the guest signal what comes next.
  virtual void ask_for_wakeup() = 0;
  // Whether it waits for so few completions that the time of each counts: with many in flight the
  // device has work while we sleep.
  virtual bool few_in_flight() const = 0;
};

// One call at a time on the clock of IoEngine::now_ns(). Must not be set when it dies.
struct IoTimer {
  void (*expired)(IoTimer&) = nullptr;
  void* owner = nullptr;  // the user's own

  bool set() const { return at_ns_ != kNotSet; }

 private:
  friend class IoLoop;
  static constexpr int64_t kNotSet = -1;
  int64_t at_ns_ = kNotSet;
  IoTimer* next_ = nullptr;
};

enum class WatchFor : uint8_t { kReadable, kReadableOrWritable, kWritable };

class IoThread {
 public:
  struct Config {
    std::string name;  // of the thread, at most 15 characters: "io-data"
    EngineKind engine = EngineKind::kAuto;
    std::vector<int> cpus;  // where it may run; empty: anywhere
    // How long, at most, a turn looks for work of its pollers, and for completions they wait for,
    // before it sleeps; adapts itself below. 0: never.
    int64_t poll_max_ns = 0;
    // For tests: puts a layer between the devices and the engine. Called on the new thread.
    std::function<std::unique_ptr<IoEngine>(std::unique_ptr<IoEngine>)> decorate;
  };
  using Task = std::move_only_function<void()>;

  // Starts the thread. Errors: the engine asked for does not work here (with its reason), or the
  // CPUs are not there.
  static Result<std::unique_ptr<IoThread>> start(Config config);
  // No thread of its own: the caller is the I/O thread, and turns the loop. For simulations.
  static std::unique_ptr<IoThread> on_caller(std::unique_ptr<IoEngine> engine);
  // One turn of a loop on the caller's thread: returns when something was done, at the latest at
  // `until_ns` on the engine's clock.
  void turn(int64_t until_ns);

  // Ends the loop and joins. No request may be in flight and nothing watched.
  ~IoThread();
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  // "io_uring" or "libaio", and why it was chosen. Any thread.
  const std::string& engine_name() const;
  const std::string& engine_reason() const;

  // How often it has waited: each is a system call, and with io_uring all that a batch of requests
  // costs. Any thread.
  uint64_t waits() const;

  // Runs `task` on this thread, soon, in the order posted. Any thread.
  void post(Task task);
  // Runs `task` on this thread and waits for its end; directly when called on this thread, but
  // between two turns of a loop on the caller's thread: then in the next turn.
  void run(Task task);
  // Waits for what this thread will release. Between two turns of a loop on the caller's thread it
  // turns the loop meanwhile.
  void wait_for(std::binary_semaphore& released);
  // Whether the caller is this thread.
  bool is_current() const;

  // --- Only on this thread ---

  // Calls `ready` on each turn in which fd is what it is watched for, or has failed. For an eventfd
  // the caller drains the counter itself. One watch per fd.
  void watch(int fd, std::function<void()> ready, WatchFor what = WatchFor::kReadable);
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

  // Until remove_poller(), the loop polls it and tells it before it sleeps.
  void add_poller(Poller& poller);
  void remove_poller(Poller& poller);

  // Calls timer.expired() once, in the first turn that begins at or after `at_ns`; a time set
  // before is forgotten.
  void set_timer(IoTimer& timer, int64_t at_ns);
  void cancel_timer(IoTimer& timer);

  // When the events of this turn were taken, on the engine's clock: one time for all of a turn.
  int64_t turn_ns() const;

  IoEngine& engine();

 private:
  explicit IoThread(Config config);
  bool between_turns() const;

  std::unique_ptr<IoLoop> loop_;
  std::thread thread_;     // none: the caller turns the loop
  std::thread::id owner_;  // who turns it
  bool turning_ = false;   // on the caller's thread: inside turn()
  bool stop_ = false;
};

}  // namespace plumb
