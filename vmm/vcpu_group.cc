#include "vmm/vcpu_group.h"

#include <pthread.h>

#include <csignal>
#include <future>

#include "base/cpu_list.h"

namespace plumb {
namespace {

int kick_signal() { return SIGRTMIN; }

// The handler does nothing: that the signal comes is enough to end KVM_RUN.
void install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  ::sigaction(kick_signal(), &action, nullptr);
}

// Signals meant for the process go to other threads than the vCPUs'.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    sigdelset(&blocked, kick_signal());
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

VcpuGroup::~VcpuGroup() {
  if (started_) stop({StopReason::kKilled, {}});
  for (std::thread& thread : threads_) thread.join();
}

Result<> VcpuGroup::start(const std::vector<std::vector<int>>& cpus,
                          std::function<void(Stopped)> on_stop) {
  install_kick_handler();
  on_stop_ = std::move(on_stop);
  const SignalsBlocked blocked;
  // Held so that no vCPU enters the guest before all threads are there.
  const std::lock_guard lock(mutex_);
  static const std::vector<int> kAnywhere;
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    Result<> started = start_thread(*vcpus_[i], i < cpus.size() ? cpus[i] : kAnywhere);
    if (!started) {
      // Not a run that ends, but one that never began: nobody is told through on_stop.
      wish_ = Wish::kStop;
      on_stop_ = nullptr;
      return started;
    }
  }
  started_ = true;
  return {};
}

Result<> VcpuGroup::start_thread(Vcpu& vcpu, const std::vector<int>& cpus) {
  std::promise<Result<>> bound;
  std::future<Result<>> result = bound.get_future();
  threads_.emplace_back([this, &vcpu, &cpus, promise = std::move(bound)]() mutable {
    promise.set_value(cpus.empty() ? Result<>() : bind_to_cpus(0, cpus));
    thread_main(vcpu);
  });
  ++alive_;
  if (cpus.empty()) return {};
  if (Result<> done = result.get(); !done)
    return failed("vCPU {}: {}", vcpu.id(), done.error().message);
  return {};
}

void VcpuGroup::thread_main(Vcpu& vcpu) {
  ::pthread_setname_np(::pthread_self(), fmt::format("vcpu-{}", vcpu.id()).c_str());
  while (enter(vcpu)) {
    std::optional<Stopped> stopped = vcpu.run();
    if (stopped) stop(std::move(*stopped));
    leave();
  }
  std::unique_lock lock(mutex_);
  if (--alive_ > 0 || !on_stop_) return;
  const std::function<void(Stopped)> on_stop = std::move(on_stop_);
  const Stopped stopped = *stopped_;
  lock.unlock();
  on_stop(stopped);
}

bool VcpuGroup::enter(Vcpu& vcpu) {
  std::unique_lock lock(mutex_);
  const bool was_paused = wish_ == Wish::kPause;
  changed_.wait(lock, [this] { return wish_ != Wish::kPause; });
  if (wish_ == Wish::kStop) return false;
  // Under the lock, as kick_all() is: a kick that follows is not lost.
  vcpu.clear_kick();
  ++inside_;
  lock.unlock();
  if (was_paused) vcpu.tell_paused();
  return true;
}

void VcpuGroup::leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  changed_.notify_all();
}

// mutex_ is held.
void VcpuGroup::kick_all() {
  for (size_t i = 0; i < threads_.size(); ++i) {
    vcpus_[i]->kick();
    ::pthread_kill(threads_[i].native_handle(), kick_signal());
  }
}

void VcpuGroup::pause() {
  std::unique_lock lock(mutex_);
  if (wish_ == Wish::kRun) {
    wish_ = Wish::kPause;
    kick_all();
  }
  changed_.wait(lock, [this] { return inside_ == 0; });
}

void VcpuGroup::resume() {
  const std::lock_guard lock(mutex_);
  if (wish_ != Wish::kPause) return;
  wish_ = Wish::kRun;
  changed_.notify_all();
}

void VcpuGroup::stop(Stopped stopped) {
  const std::lock_guard lock(mutex_);
  if (wish_ == Wish::kStop) return;
  wish_ = Wish::kStop;
  stopped_ = std::move(stopped);
  kick_all();
  changed_.notify_all();
}

}  // namespace plumb
