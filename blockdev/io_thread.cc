#include "blockdev/io_thread.h"

#include <pthread.h>

#include <future>
#include <utility>

#include "base/cpu_list.h"
#include "blockdev/io_loop.h"

namespace plumb {
namespace {

Result<> prepare_thread(const IoThread::Config& config) {
  ::pthread_setname_np(::pthread_self(), config.name.substr(0, 15).c_str());
  if (config.cpus.empty()) return {};
  return bind_to_cpus(0, config.cpus);
}

}  // namespace

Result<EngineKind> parse_engine_kind(std::string_view text) {
  if (text == "auto") return EngineKind::kAuto;
  if (text == "io_uring") return EngineKind::kUring;
  if (text == "libaio") return EngineKind::kLibaio;
  return usage_error("engine \"{}\" is not known: it is one of auto, io_uring, libaio", text);
}

Result<std::unique_ptr<IoThread>> IoThread::start(Config config) {
  const std::string name = config.name;
  std::unique_ptr<IoThread> made(new IoThread(std::move(config)));
  // The ring belongs to the thread that makes it, so the thread sets everything up.
  std::promise<Result<>> set_up;
  std::future<Result<>> started = set_up.get_future();
  made->thread_ = std::thread([&self = *made, promise = std::move(set_up)]() mutable {
    Result<> result = prepare_thread(self.loop_->config());
    if (result) result = self.loop_->set_up();
    self.stop_ = !result.ok();
    promise.set_value(std::move(result));
    while (!self.stop_) self.loop_->turn(kForever);
    self.loop_->tear_down();
  });
  made->owner_ = made->thread_.get_id();
  if (Result<> result = started.get(); !result) {
    made->thread_.join();
    return failed("I/O thread {} cannot start: {}", name, result.error().message);
  }
  return made;
}

std::unique_ptr<IoThread> IoThread::on_caller(std::unique_ptr<IoEngine> engine) {
  std::unique_ptr<IoThread> made(new IoThread(Config{}));
  made->loop_->set_up(std::move(engine));
  made->owner_ = std::this_thread::get_id();
  return made;
}

IoThread::IoThread(Config config) : loop_(std::make_unique<IoLoop>(std::move(config))) {}

IoThread::~IoThread() {
  if (!thread_.joinable()) return;
  ENSURE(!is_current());
  post([this] { stop_ = true; });
  thread_.join();
}

void IoThread::turn(int64_t until_ns) {
  ENSURE(between_turns());
  turning_ = true;
  loop_->turn(until_ns);
  turning_ = false;
}

// The caller turns the loop, and is not called by it now.
bool IoThread::between_turns() const { return !thread_.joinable() && is_current() && !turning_; }

const std::string& IoThread::engine_name() const { return loop_->engine_name(); }
const std::string& IoThread::engine_reason() const { return loop_->engine_reason(); }
bool IoThread::is_current() const { return std::this_thread::get_id() == owner_; }

void IoThread::post(Task task) { loop_->post(std::move(task)); }

void IoThread::run(Task task) {
  if (is_current() && !between_turns()) {
    task();
    return;
  }
  std::binary_semaphore ended(0);
  post([&task, &ended] {
    task();
    ended.release();
  });
  wait_for(ended);
}

void IoThread::wait_for(std::binary_semaphore& released) {
  if (!between_turns()) {
    ENSURE(!is_current());
    released.acquire();
    return;
  }
  // Posted tasks need no event to run, so the first turn does not wait.
  int64_t until_ns = kNoWait;
  do {
    turn(std::exchange(until_ns, kForever));
  } while (!released.try_acquire());
}

void IoThread::watch(int fd, std::function<void()> ready, WatchFor what) {
  using Trigger = IoEngine::Trigger;
  const Trigger trigger = what == WatchFor::kReadable   ? Trigger::kReadable
                          : what == WatchFor::kWritable ? Trigger::kWritable
                                                        : Trigger::kReadableOrWritable;
  loop_->watch(fd, std::move(ready), trigger);
}

void IoThread::watch_signal(int fd, std::function<void()> signalled) {
  loop_->watch(fd, std::move(signalled), IoEngine::Trigger::kSignal);
}

void IoThread::unwatch(int fd) { loop_->unwatch(fd); }
void IoThread::defer(IoOp& op) { loop_->defer(op); }
void IoThread::call_at_batch_end(BatchEnd& listener) { loop_->call_at_batch_end(listener); }
void IoThread::add_poller(Poller& poller) { loop_->add_poller(poller); }
void IoThread::remove_poller(Poller& poller) { loop_->remove_poller(poller); }
void IoThread::set_timer(IoTimer& timer, int64_t at_ns) { loop_->set_timer(timer, at_ns); }
void IoThread::cancel_timer(IoTimer& timer) { loop_->cancel_timer(timer); }
int64_t IoThread::turn_ns() const { return loop_->turn_ns(); }
uint64_t IoThread::waits() const { return loop_->waits(); }
IoEngine& IoThread::engine() { return loop_->engine(); }

}  // namespace plumb
