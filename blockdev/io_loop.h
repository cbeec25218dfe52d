// IoLoop: the loop of an I/O thread, one turn at a time. IoThread runs it on a thread of its own,
// or lets its owner turn it (simulations).
//
// One turn: look for what guests added → wait, in one system call, which also submits what was
// queued → posted tasks → fd handlers → timers → completions → batch ends. Where sleeping costs
// more than it saves, the wait begins with looking for completions. Guests are asked to ring for
// what they add only before a sleep.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"
#include "blockdev/limits.h"

namespace plumb {

class HelperThread;

// How long it pays to look for something before sleeping for it: longer when it came soon after we
// fell asleep, half as long each time it did not come while we looked.
class AdaptivePoll {
 public:
  int64_t ns() const { return ns_; }
  // It came `waited_ns` after we began to wait; `looked`: for ns() of that, in vain.
  void learn(int64_t waited_ns, bool looked, int64_t max_ns);

 private:
  int64_t ns_ = 0;
};

// Whether looking for completions beats sleeping for them: it saves the wake-up, and the guest its
// doorbells, but takes a CPU that the completion itself may need (a file system's durable writes
// end in a kernel thread). So of every kRound waits the first are trials of both, and the rest does
// what took clearly less time from one completion to the next. Medians: a guest may pause.
class CompletionPoll {
 public:
  bool worth_looking() const;
  // A wait brought completions, `cycle_ns` after those before.
  void learn(int64_t cycle_ns);

 private:
  static constexpr unsigned kRound = 512;
  static constexpr unsigned kTrials = 16;  // of each
  unsigned wait_ = 0;                      // of the round
  std::array<int64_t, kTrials> slept_ns_{};
  std::array<int64_t, kTrials> looked_ns_{};
  bool pays_ = false;
};

class IoLoop {
 public:
  using Task = IoThread::Task;

  explicit IoLoop(IoThread::Config config);
  ~IoLoop();

  // On the thread that will turn the loop. Errors: the engine asked for does not work here.
  Result<> set_up();
  // The same with an engine of the caller's, which is told nothing of `Config::engine`.
  void set_up(std::unique_ptr<IoEngine> engine);

  // Ends the engine, on the thread that used it.
  void tear_down();

  // Returns when something was done, at the latest at `until_ns`.
  void turn(int64_t until_ns);

  const IoThread::Config& config() const { return config_; }
  const std::string& engine_name() const { return engine_name_; }
  const std::string& engine_reason() const { return engine_reason_; }
  IoEngine& engine() { return *engine_; }
  int64_t turn_ns() const { return turn_ns_; }
  uint64_t waits() const { return waits_.load(std::memory_order_relaxed); }  // any thread

  void post(Task task);  // any thread

  void watch(int fd, std::function<void()> ready, IoEngine::Trigger trigger);
  void unwatch(int fd);
  void defer(IoOp& op) { deferred_.push(op); }
  void call_at_batch_end(BatchEnd& listener);
  void add_poller(Poller& poller) { pollers_.push_back(&poller); }
  void remove_poller(Poller& poller) { std::erase(pollers_, &poller); }
  void set_timer(IoTimer& timer, int64_t at_ns);
  void cancel_timer(IoTimer& timer);

 private:
  struct Watch {
    int fd = -1;  // -1: free
    // Kept alive while it runs, also when it unwatches itself.
    std::shared_ptr<std::function<void()>> ready;
  };

  void wait_once(int64_t until_ns);
  bool poll_all();
  void poll_for_work();
  void sleep(int64_t until_ns);
  void wait(int64_t until_ns);
  bool few_in_flight() const;
  void poll_for_completions();
  void run_tasks();
  void run_ready();
  void run_timers();
  void run_completions();
  void run_batch_ends();

  const IoThread::Config config_;
  std::string engine_name_;
  std::string engine_reason_;

  UniqueFd wake_fd_;
  UniqueFd helper_fd_;
  std::mutex tasks_mutex_;
  std::vector<Task> tasks_;  // guarded by tasks_mutex_

  // The rest belongs to the thread that turns the loop.
  std::unique_ptr<HelperThread> helper_;  // nullptr: the engine has no use for it
  std::unique_ptr<IoEngine> engine_;
  std::atomic<uint64_t> waits_ = 0;
  IoEvents events_;
  IoOpList deferred_;
  std::vector<Task> running_tasks_;
  std::array<Watch, kWatches> watches_;
  std::vector<BatchEnd*> batch_ends_;
  std::vector<Poller*> pollers_;
  IoTimer* timers_ = nullptr;  // the next one first

  int64_t turn_ns_ = 0;           // when the events of this turn were taken
  int64_t completed_ns_ = 0;      // the last turn that completed something
  bool completed_ = false;        // the last turn did
  bool looked_for_work_ = false;  // since, in vain
  AdaptivePoll work_poll_;        // after a completion, for the guest's next request
  CompletionPoll completion_poll_;
};

}  // namespace plumb
