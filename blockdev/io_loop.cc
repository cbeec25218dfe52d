#include "blockdev/io_loop.h"

#include <algorithm>
#include <ctime>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/helper_thread.h"
#include "blockdev/libaio_engine.h"
#include "blockdev/uring_engine.h"

namespace plumb {
namespace {

constexpr uint32_t kWakeToken = 0;
constexpr uint32_t kHelperToken = 1;
constexpr uint32_t kFirstFreeToken = 2;

constexpr int64_t kFirstPollNs = 4000;  // where polling starts again after it did not pay

struct ChosenEngine {
  std::unique_ptr<IoEngine> engine;
  std::string reason;
};

Result<ChosenEngine> choose_engine(EngineKind kind, HelperThread& helper) {
  if (kind == EngineKind::kLibaio) {
    return ChosenEngine{TRY(make_libaio_engine(helper)), "asked for"};
  }
  Result<std::unique_ptr<IoEngine>> uring = make_uring_engine(helper);
  if (uring.ok()) {
    const bool asked = kind == EngineKind::kUring;
    return ChosenEngine{std::move(uring).value(), asked ? "asked for" : "io_uring works here"};
  }
  if (kind == EngineKind::kUring) return std::move(uring).error();
  log::info("engine libaio is used: {}", uring.error().message);
  return ChosenEngine{TRY(make_libaio_engine(helper)), uring.error().message};
}

}  // namespace

int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

IoLoop::IoLoop(IoThread::Config config) : config_(std::move(config)) {}
IoLoop::~IoLoop() { ENSURE(timers_ == nullptr); }

Result<> IoLoop::set_up() {
  wake_fd_ = TRY(make_eventfd());
  helper_fd_ = TRY(make_eventfd());
  helper_ = std::make_unique<HelperThread>(helper_fd_.get());
  ChosenEngine chosen = TRY(choose_engine(config_.engine, *helper_));
  engine_reason_ = std::move(chosen.reason);
  if (config_.decorate) chosen.engine = config_.decorate(std::move(chosen.engine));
  set_up(std::move(chosen.engine));
  engine_->watch(kWakeToken, wake_fd_.get(), IoEngine::Trigger::kSignal);
  engine_->watch(kHelperToken, helper_fd_.get(), IoEngine::Trigger::kSignal);
  return {};
}

void IoLoop::set_up(std::unique_ptr<IoEngine> engine) {
  engine_ = std::move(engine);
  engine_name_ = engine_->name();
  events_.ready.reserve(kWatches);
}

void IoLoop::tear_down() {
  engine_.reset();
  helper_.reset();
}

void IoLoop::turn(int64_t until_ns) {
  poll_for_work();
  run_batch_ends();
  wait(until_ns);
  run_ready();
  run_timers();
  run_completions();
  run_batch_ends();
}

void AdaptivePoll::learn(int64_t waited_ns, bool looked, int64_t max_ns) {
  if (waited_ns <= ns_) return;
  if (waited_ns <= max_ns) {
    ns_ = std::min(std::max(2 * ns_, kFirstPollNs), max_ns);
  } else if (looked) {
    ns_ /= 2;
    if (ns_ < kFirstPollNs / 4) ns_ = 0;
  }
}

bool IoLoop::poll_all() {
  bool any = false;
  for (Poller* poller : pollers_) any |= poller->poll();
  return any;
}

// A guest whose request has just ended often has the next one ready before it could ring a
// doorbell and a sleeping thread could wake up: for a moment, its rings are looked at instead.
void IoLoop::poll_for_work() {
  looked_for_work_ = false;
  if (!completed_ || work_poll_.ns() == 0 || pollers_.empty()) return;
  const int64_t end_ns = engine_->now_ns() + work_poll_.ns();
  while (!engine_->ready() && deferred_.empty()) {
    // What is found now is taken now: the time of the last turn would add the guest's own.
    turn_ns_ = engine_->now_ns();
    if (poll_all()) return;
    if (turn_ns_ >= end_ns) {
      looked_for_work_ = true;
      return;
    }
    __builtin_ia32_pause();
  }
}

bool CompletionPoll::worth_looking() const {
  if (wait_ < kTrials) return false;
  return wait_ < 2 * kTrials || pays_;
}

void CompletionPoll::learn(int64_t cycle_ns) {
  const auto median = [](std::array<int64_t, kTrials>& cycles) {
    std::nth_element(cycles.begin(), cycles.begin() + kTrials / 2, cycles.end());
    return cycles[kTrials / 2];
  };
  if (wait_ < kTrials) {
    slept_ns_[wait_] = cycle_ns;
  } else if (wait_ < 2 * kTrials) {
    looked_ns_[wait_ - kTrials] = cycle_ns;
  }
  ++wait_;
  // By a tenth at least: looking costs a CPU.
  if (wait_ == 2 * kTrials) pays_ = median(looked_ns_) * 10 < median(slept_ns_) * 9;
  if (wait_ == kRound) wait_ = 0;
}

bool IoLoop::few_in_flight() const {
  return std::any_of(pollers_.begin(), pollers_.end(),
                     [](const Poller* poller) { return poller->few_in_flight(); });
}

void IoLoop::wait_once(int64_t until_ns) {
  waits_.store(waits() + 1, std::memory_order_relaxed);
  engine_->wait(until_ns, events_);
}

// Meanwhile the guest rings no doorbell: what it adds is found in the rings.
void IoLoop::poll_for_completions() {
  wait_once(kNoWait);  // submits
  const int64_t end_ns = engine_->now_ns() + config_.poll_max_ns;
  while (events_.completed.empty() && events_.ready.empty() && !engine_->ready()) {
    turn_ns_ = engine_->now_ns();
    if (turn_ns_ >= end_ns) return;
    if (!poll_all()) {
      __builtin_ia32_pause();
      continue;
    }
    run_batch_ends();
    if (!deferred_.empty()) return;
    wait_once(kNoWait);
  }
  if (events_.completed.empty() && events_.ready.empty()) wait_once(kNoWait);
}

// Once the guest will ring for what it adds from now on.
void IoLoop::sleep(int64_t until_ns) {
  for (Poller* poller : pollers_) poller->ask_for_wakeup();
  run_batch_ends();
  if (timers_ != nullptr) until_ns = std::min(until_ns, timers_->at_ns_);
  wait_once(deferred_.empty() ? until_ns : kNoWait);
}

void IoLoop::wait(int64_t until_ns) {
  if (config_.poll_max_ns == 0) {
    sleep(until_ns);
    turn_ns_ = engine_->now_ns();
    return;
  }
  const bool few = deferred_.empty() && few_in_flight();
  if (few && completion_poll_.worth_looking()) poll_for_completions();
  if (events_.completed.empty() && events_.ready.empty()) sleep(until_ns);
  turn_ns_ = engine_->now_ns();
  const bool kicked = std::any_of(events_.ready.begin(), events_.ready.end(),
                                  [](uint32_t token) { return token >= kFirstFreeToken; });
  if (completed_ && (kicked || looked_for_work_)) {
    work_poll_.learn(kicked ? turn_ns_ - completed_ns_ : kForever, looked_for_work_,
                     config_.poll_max_ns);
  }
  completed_ = !events_.completed.empty();
  if (!completed_) return;
  if (few) completion_poll_.learn(turn_ns_ - completed_ns_);
  completed_ns_ = turn_ns_;
}

void IoLoop::post(Task task) {
  {
    const std::lock_guard lock(tasks_mutex_);
    tasks_.push_back(std::move(task));
  }
  if (wake_fd_) signal_eventfd(wake_fd_.get());
}

void IoLoop::run_tasks() {
  {
    const std::lock_guard lock(tasks_mutex_);
    running_tasks_.swap(tasks_);
  }
  for (Task& task : running_tasks_) task();
  running_tasks_.clear();
}

// Posted tasks first, then the handlers, whatever order the kernel reported them in.
void IoLoop::run_ready() {
  if (!wake_fd_) run_tasks();
  for (const uint32_t token : events_.ready) {
    if (token == kWakeToken) run_tasks();
    if (token == kHelperToken) helper_->collect(events_.completed);
  }
  for (const uint32_t token : events_.ready) {
    if (token < kFirstFreeToken) continue;
    const std::shared_ptr<std::function<void()>> ready = watches_[token].ready;
    if (ready != nullptr) (*ready)();
  }
  events_.ready.clear();
}

void IoLoop::run_timers() {
  while (timers_ != nullptr && timers_->at_ns_ <= turn_ns_) {
    IoTimer& timer = *timers_;
    timers_ = timer.next_;
    timer.at_ns_ = IoTimer::kNotSet;
    timer.expired(timer);
  }
}

void IoLoop::run_completions() {
  // What is deferred while these run belongs to the next turn.
  events_.completed.push_all(deferred_);
  while (IoOp* op = events_.completed.pop()) op->done(*op);
}

void IoLoop::run_batch_ends() {
  // A listener may ask again, or for another, while it runs: the list grows under us.
  for (size_t i = 0; i < batch_ends_.size(); ++i) {
    BatchEnd* listener = batch_ends_[i];
    listener->asked_ = false;
    listener->batch_end();
  }
  batch_ends_.clear();
}

void IoLoop::watch(int fd, std::function<void()> ready, IoEngine::Trigger trigger) {
  for (uint32_t token = kFirstFreeToken; token < kWatches; ++token) {
    Watch& watch = watches_[token];
    if (watch.fd >= 0) continue;
    watch.fd = fd;
    watch.ready = std::make_shared<std::function<void()>>(std::move(ready));
    engine_->watch(token, fd, trigger);
    return;
  }
  log::error("I/O thread {} watches more than {} file descriptors", config_.name, kWatches);
  ENSURE(false);
}

void IoLoop::unwatch(int fd) {
  for (uint32_t token = kFirstFreeToken; token < kWatches; ++token) {
    Watch& watch = watches_[token];
    if (watch.fd != fd) continue;
    watch.fd = -1;
    watch.ready = nullptr;
    engine_->unwatch(token);
    return;
  }
}

void IoLoop::call_at_batch_end(BatchEnd& listener) {
  if (listener.asked_) return;
  listener.asked_ = true;
  batch_ends_.push_back(&listener);
}

void IoLoop::set_timer(IoTimer& timer, int64_t at_ns) {
  cancel_timer(timer);
  IoTimer** place = &timers_;
  while (*place != nullptr && (*place)->at_ns_ <= at_ns) place = &(*place)->next_;
  timer.at_ns_ = at_ns;
  timer.next_ = *place;
  *place = &timer;
}

void IoLoop::cancel_timer(IoTimer& timer) {
  if (!timer.set()) return;
  IoTimer** place = &timers_;
  while (*place != &timer) place = &(*place)->next_;
  *place = timer.next_;
  timer.at_ns_ = IoTimer::kNotSet;
}

}  // namespace plumb
