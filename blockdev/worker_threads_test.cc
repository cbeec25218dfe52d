#include "blockdev/worker_threads.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <semaphore>
#include <set>

namespace plumb {
namespace {

struct TestJob : WorkerThreads::Job {
  TestJob() {
    run = [](Job& job) {
      auto& self = static_cast<TestJob&>(job);
      self.thread = std::this_thread::get_id();
      self.begun.release();
      self.may_end.acquire();
      self.ended.release();
    };
  }
  std::binary_semaphore begun{0};
  std::binary_semaphore may_end{0};
  std::binary_semaphore ended{0};
  std::thread::id thread;
};

}  // namespace

TEST_CASE("workers: as many jobs run side by side as there are threads, others wait in order") {
  auto workers = WorkerThreads::start({.name = "test", .threads = 2, .at_start = {}}).value();
  TestJob jobs[4];
  for (TestJob& job : jobs) workers->submit(job);
  jobs[0].begun.acquire();
  jobs[1].begun.acquire();
  CHECK(jobs[0].thread != jobs[1].thread);
  CHECK_FALSE(workers->withdraw(jobs[0]));  // it runs
  CHECK(workers->withdraw(jobs[2]));
  jobs[1].may_end.release();
  jobs[3].begun.acquire();
  CHECK(jobs[3].thread == jobs[1].thread);
  jobs[0].may_end.release();
  jobs[3].may_end.release();
  for (const size_t i : {0U, 1U, 3U}) jobs[i].ended.acquire();
  CHECK_FALSE(jobs[2].begun.try_acquire());
}

TEST_CASE("workers: each thread prepares itself before start() returns, and its error is told") {
  std::atomic<int> prepared = 0;
  const auto prepare = [&prepared]() -> Result<> {
    if (++prepared == 3) return failed("thread 3 is not allowed to");
    return {};
  };
  CHECK(WorkerThreads::start({.name = "test", .threads = 2, .at_start = prepare}).ok());
  CHECK(prepared == 2);
  auto refused = WorkerThreads::start({.name = "test", .threads = 3, .at_start = prepare});
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().message == "thread 3 is not allowed to");
}

}  // namespace plumb
