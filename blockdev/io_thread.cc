#include "blockdev/io_thread.h"

#include <pthread.h>
#include <sched.h>

#include <array>
#include <cstring>
#include <future>
#include <mutex>
#include <semaphore>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/helper_thread.h"
#include "blockdev/io_engine.h"
#include "blockdev/libaio_engine.h"
#include "blockdev/limits.h"
#include "blockdev/uring_engine.h"

namespace plumb {
namespace {

constexpr uint32_t kWakeToken = 0;
constexpr uint32_t kHelperToken = 1;
constexpr uint32_t kFirstFreeToken = 2;

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

Result<EngineKind> parse_engine_kind(std::string_view text) {
  if (text == "auto") return EngineKind::kAuto;
  if (text == "io_uring") return EngineKind::kUring;
  if (text == "libaio") return EngineKind::kLibaio;
  return usage_error("engine \"{}\" is not known: it is one of auto, io_uring, libaio", text);
}

struct IoThread::State {
  struct Watch {
    int fd = -1;  // -1: free
    // Kept alive while it runs, also when it unwatches itself.
    std::shared_ptr<std::function<void()>> ready;
  };

  void prepare_thread() const;
  Result<> set_up();
  void loop();
  void run_tasks();
  void run_ready();
  void run_completions();
  void run_batch_ends();
  void add_watch(int fd, std::function<void()> ready, IoEngine::Trigger trigger);

  Config config;
  std::thread thread;
  std::string engine_name;
  std::string engine_reason;

  UniqueFd wake_fd;
  UniqueFd helper_fd;
  std::mutex tasks_mutex;
  std::vector<Task> tasks;  // guarded by tasks_mutex

  // The rest is the I/O thread's own.
  std::unique_ptr<HelperThread> helper;
  std::unique_ptr<IoEngine> engine;
  bool stop = false;
  IoEvents events;
  IoOpList deferred;
  std::vector<Task> running_tasks;
  std::array<Watch, kWatches> watches;
  std::vector<BatchEnd*> batch_ends;
};

void IoThread::State::prepare_thread() const {
  ::pthread_setname_np(::pthread_self(), config.name.substr(0, 15).c_str());
  if (config.cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : config.cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  const int error = ::pthread_setaffinity_np(::pthread_self(), sizeof(set), &set);
  if (error != 0) {
    log::warning("I/O thread {} cannot be bound to its CPUs: {}", config.name,
                 std::strerror(error));
  }
}

Result<> IoThread::State::set_up() {
  wake_fd = TRY(make_eventfd());
  helper_fd = TRY(make_eventfd());
  helper = std::make_unique<HelperThread>(helper_fd.get());
  ChosenEngine chosen = TRY(choose_engine(config.engine, *helper));
  engine = std::move(chosen.engine);
  engine_name = engine->name();
  engine_reason = std::move(chosen.reason);
  if (config.decorate) engine = config.decorate(std::move(engine));
  events.ready.reserve(kWatches);
  engine->watch(kWakeToken, wake_fd.get(), IoEngine::Trigger::kSignal);
  engine->watch(kHelperToken, helper_fd.get(), IoEngine::Trigger::kSignal);
  return {};
}

void IoThread::State::loop() {
  while (!stop) {
    engine->wait(deferred.empty(), events);
    run_ready();
    run_completions();
    run_batch_ends();
  }
  engine.reset();
  helper.reset();
}

void IoThread::State::run_tasks() {
  {
    const std::lock_guard lock(tasks_mutex);
    running_tasks.swap(tasks);
  }
  for (Task& task : running_tasks) task();
  running_tasks.clear();
}

// Posted tasks first, then the handlers, whatever order the kernel reported them in.
void IoThread::State::run_ready() {
  for (const uint32_t token : events.ready) {
    if (token == kWakeToken) run_tasks();
    if (token == kHelperToken) helper->collect(events.completed);
  }
  for (const uint32_t token : events.ready) {
    if (token < kFirstFreeToken) continue;
    const std::shared_ptr<std::function<void()>> ready = watches[token].ready;
    if (ready != nullptr) (*ready)();
  }
  events.ready.clear();
}

void IoThread::State::run_completions() {
  // What is deferred while these run belongs to the next turn.
  events.completed.push_all(deferred);
  while (IoOp* op = events.completed.pop()) op->done(*op);
}

void IoThread::State::run_batch_ends() {
  // A listener may ask again, or for another, while it runs: the list grows under us.
  for (size_t i = 0; i < batch_ends.size(); ++i) {
    BatchEnd* listener = batch_ends[i];
    listener->asked_ = false;
    listener->batch_end();
  }
  batch_ends.clear();
}

void IoThread::State::add_watch(int fd, std::function<void()> ready, IoEngine::Trigger trigger) {
  for (uint32_t token = kFirstFreeToken; token < kWatches; ++token) {
    Watch& watch = watches[token];
    if (watch.fd >= 0) continue;
    watch.fd = fd;
    watch.ready = std::make_shared<std::function<void()>>(std::move(ready));
    engine->watch(token, fd, trigger);
    return;
  }
  log::error("I/O thread {} watches more than {} file descriptors", config.name, kWatches);
  ENSURE(false);
}

Result<std::unique_ptr<IoThread>> IoThread::start(Config config) {
  auto state = std::make_unique<State>();
  state->config = std::move(config);
  State& shared = *state;
  // The ring belongs to the thread that makes it, so the thread sets everything up.
  std::promise<Result<>> set_up;
  std::future<Result<>> started = set_up.get_future();
  shared.thread = std::thread([&shared, promise = std::move(set_up)]() mutable {
    shared.prepare_thread();
    Result<> result = shared.set_up();
    const bool ok = result.ok();
    promise.set_value(std::move(result));
    if (ok) shared.loop();
  });
  if (Result<> result = started.get(); !result) {
    shared.thread.join();
    return failed("I/O thread {} cannot start: {}", shared.config.name, result.error().message);
  }
  return std::unique_ptr<IoThread>(new IoThread(std::move(state)));
}

IoThread::IoThread(std::unique_ptr<State> state) : state_(std::move(state)) {}

IoThread::~IoThread() {
  ENSURE(!is_current());
  post([this] { state_->stop = true; });
  state_->thread.join();
}

const std::string& IoThread::engine_name() const { return state_->engine_name; }
const std::string& IoThread::engine_reason() const { return state_->engine_reason; }
bool IoThread::is_current() const { return std::this_thread::get_id() == state_->thread.get_id(); }

void IoThread::post(Task task) {
  {
    const std::lock_guard lock(state_->tasks_mutex);
    state_->tasks.push_back(std::move(task));
  }
  signal_eventfd(state_->wake_fd.get());
}

void IoThread::run(Task task) {
  if (is_current()) {
    task();
    return;
  }
  std::binary_semaphore ended(0);
  post([&task, &ended] {
    task();
    ended.release();
  });
  ended.acquire();
}

void IoThread::watch(int fd, std::function<void()> ready, bool writable) {
  using Trigger = IoEngine::Trigger;
  state_->add_watch(fd, std::move(ready),
                    writable ? Trigger::kReadableOrWritable : Trigger::kReadable);
}

void IoThread::watch_signal(int fd, std::function<void()> signalled) {
  state_->add_watch(fd, std::move(signalled), IoEngine::Trigger::kSignal);
}

void IoThread::unwatch(int fd) {
  for (uint32_t token = kFirstFreeToken; token < kWatches; ++token) {
    State::Watch& watch = state_->watches[token];
    if (watch.fd != fd) continue;
    watch.fd = -1;
    watch.ready = nullptr;
    state_->engine->unwatch(token);
    return;
  }
}

void IoThread::defer(IoOp& op) { state_->deferred.push(op); }

void IoThread::call_at_batch_end(BatchEnd& listener) {
  if (listener.asked_) return;
  listener.asked_ = true;
  state_->batch_ends.push_back(&listener);
}

IoEngine& IoThread::engine() { return *state_->engine; }

}  // namespace plumb
