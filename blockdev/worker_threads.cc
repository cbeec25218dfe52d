#include "blockdev/worker_threads.h"

#include <pthread.h>

#include <cerrno>
#include <latch>
#include <system_error>

namespace plumb {

Result<std::unique_ptr<WorkerThreads>> WorkerThreads::start(const Config& config) {
  std::unique_ptr<WorkerThreads> workers(new WorkerThreads());
  TRY(workers->start_threads(config));
  return workers;
}

Result<> WorkerThreads::start_threads(const Config& config) {
  std::vector<Result<>> outcomes(config.threads);
  std::latch started(config.threads);
  for (unsigned i = 0; i < config.threads; ++i) {
    try {
      threads_.emplace_back([this, &config, &started, &outcome = outcomes[i]] {
        ::pthread_setname_np(::pthread_self(), config.name.c_str());
        if (config.at_start) outcome = config.at_start();
        started.count_down();  // the last look at what start() has
        work();
      });
    } catch (const std::system_error& error) {
      outcomes[i] = os_error(error.code().value(), "no thread can be made for {}", config.name);
      started.count_down();
    }
  }
  started.wait();
  for (Result<>& outcome : outcomes) TRY(std::move(outcome));
  return {};
}

WorkerThreads::~WorkerThreads() {
  {
    const std::lock_guard lock(mutex_);
    ENSURE(first_ == nullptr);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerThreads::submit(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    job.next = nullptr;
    Job** last = &first_;
    while (*last != nullptr) last = &(*last)->next;
    *last = &job;
  }
  wake_.notify_one();
}

bool WorkerThreads::withdraw(Job& job) {
  const std::lock_guard lock(mutex_);
  for (Job** at = &first_; *at != nullptr; at = &(*at)->next) {
    if (*at != &job) continue;
    *at = job.next;
    return true;
  }
  return false;
}

void WorkerThreads::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || first_ != nullptr; });
    Job* job = first_;
    if (job == nullptr) return;
    first_ = job->next;
    lock.unlock();
    job->run(*job);
    lock.lock();
  }
}

}  // namespace plumb
