// WorkerThreads: a few threads for calls that block and have no asynchronous form: SG_IO, a
// conversation with the reservation broker. What comes on top of them waits, in order.
//
// The threads start with the object, so that they may keep what the process gives up later.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace plumb {

class WorkerThreads {
 public:
  struct Config {
    std::string name;  // of each thread, at most 15 characters
    unsigned threads = 1;
    std::function<Result<>()> at_start;  // on each thread, before its first job; may be empty
  };
  // Something to do. The submitter owns it, and it stays until run() has returned.
  struct Job {
    void (*run)(Job&) = nullptr;
    Job* next = nullptr;
  };

  // Errors: no thread can be made; at_start's.
  static Result<std::unique_ptr<WorkerThreads>> start(const Config& config);
  // Waits for what runs; nothing may be waiting.
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  // Any thread. run() is called on one of the threads, once.
  void submit(Job& job);
  // Any thread. Takes back a job that has not begun: true, and its run() is not called.
  bool withdraw(Job& job);

 private:
  WorkerThreads() = default;
  Result<> start_threads(const Config& config);
  void work();

  std::mutex mutex_;
  std::condition_variable wake_;
  Job* first_ = nullptr;  // guarded by mutex_
  bool stop_ = false;     // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace plumb
