#include "blockdev/io_thread.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <semaphore>

#include "base/file.h"
#include "blockdev/io_engine.h"
#include "blockdev/limits.h"
#include "blockdev/sim_engine.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

std::unique_ptr<IoThread> start(EngineKind kind) {
  IoThread::Config config;
  config.name = "io-test";
  config.engine = kind;
  return IoThread::start(std::move(config)).value();
}

const auto kBothEngines = {EngineKind::kUring, EngineKind::kLibaio};

// In this process, io_uring_setup fails with `error` from now on.
void forbid_io_uring(int error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = std::size(program), .filter = program};
  ENSURE(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  ENSURE(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

// "ENGINE: REASON" of a thread started in a process where io_uring_setup fails with `error`.
std::string engine_without_io_uring(EngineKind kind, int error) {
  int ends[2];
  ENSURE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    forbid_io_uring(error);
    IoThread::Config config;
    config.name = "io-test";
    config.engine = kind;
    Result<std::unique_ptr<IoThread>> thread = IoThread::start(std::move(config));
    const std::string text = thread.ok()
                                 ? (*thread)->engine_name() + ": " + (*thread)->engine_reason()
                                 : "none: " + thread.error().message;
    const ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  char text[512] = {};
  const ssize_t got = ::read(ends[0], text, sizeof(text) - 1);
  ::close(ends[0]);
  ENSURE(got > 0 && ::waitpid(child, nullptr, 0) == child);
  return text;
}

struct CountingEnd : BatchEnd {
  int calls = 0;
  void batch_end() override { ++calls; }
};

}  // namespace

TEST_CASE("engine names are read, and an unknown one is refused with the known ones") {
  CHECK(parse_engine_kind("auto").value() == EngineKind::kAuto);
  CHECK(parse_engine_kind("io_uring").value() == EngineKind::kUring);
  CHECK(parse_engine_kind("libaio").value() == EngineKind::kLibaio);
  Result<EngineKind> unknown = parse_engine_kind("aio");
  REQUIRE(!unknown.ok());
  CHECK(unknown.error().kind == ErrorKind::kUsage);
  CHECK(unknown.error().message.find("auto, io_uring, libaio") != std::string::npos);
}

TEST_CASE("the engine and why it was chosen are told") {
  CHECK(start(EngineKind::kUring)->engine_name() == "io_uring");
  CHECK(start(EngineKind::kLibaio)->engine_name() == "libaio");
  CHECK(start(EngineKind::kLibaio)->engine_reason() == "asked for");
  CHECK(!start(EngineKind::kAuto)->engine_reason().empty());
}

TEST_CASE("without io_uring, auto takes libaio and says why, and io_uring is an error") {
  CHECK(engine_without_io_uring(EngineKind::kAuto, EPERM) ==
        "libaio: io_uring is forbidden (kernel.io_uring_disabled, or a seccomp filter): Operation "
        "not permitted");
  CHECK(engine_without_io_uring(EngineKind::kAuto, ENOSYS) ==
        "libaio: the kernel has no io_uring: Function not implemented");
  CHECK(engine_without_io_uring(EngineKind::kAuto, ENOMEM).find("libaio: ") == 0);
  CHECK(engine_without_io_uring(EngineKind::kUring, EPERM).find("none: I/O thread io-test") == 0);
}

TEST_CASE("tasks run in order on the thread, and run() waits for its own") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    std::vector<int> order;
    for (int i = 0; i < 100; ++i) {
      thread->post([&order, &thread, i] {
        ENSURE(thread->is_current());
        order.push_back(i);
      });
    }
    bool nested = false;
    thread->run([&] { thread->run([&] { nested = true; }); });
    CHECK(nested);
    CHECK(order.size() == 100);
    CHECK(std::is_sorted(order.begin(), order.end()));
    CHECK(!thread->is_current());
  }
}

TEST_CASE("a readable descriptor is reported each turn until it is drained") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    const UniqueFd fd = make_eventfd().value();
    std::counting_semaphore<> calls(0);
    std::atomic<int> left = 3;
    thread->run([&] {
      thread->watch(fd.get(), [&] {
        if (--left == 0) drain_eventfd(fd.get());
        calls.release();
      });
    });
    signal_eventfd(fd.get());
    for (int i = 0; i < 3; ++i) calls.acquire();
    thread->run([&] { thread->unwatch(fd.get()); });
    CHECK(!calls.try_acquire());
  }
}

TEST_CASE("each signal of a watched eventfd is reported without draining it") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    const UniqueFd fd = make_eventfd().value();
    std::counting_semaphore<> calls(0);
    thread->run([&] { thread->watch_signal(fd.get(), [&] { calls.release(); }); });
    for (int i = 0; i < 1000; ++i) {
      signal_eventfd(fd.get());
      calls.acquire();
    }
    // Nothing more comes by itself: turns of the loop bring no further call.
    for (int i = 0; i < 10; ++i) thread->run([] {});
    thread->run([&] { thread->unwatch(fd.get()); });
    CHECK(!calls.try_acquire());
    signal_eventfd(fd.get());
    for (int i = 0; i < 3; ++i) thread->run([] {});
    CHECK(!calls.try_acquire());
  }
}

TEST_CASE("a signal from before the watch is reported") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    const UniqueFd fd = make_eventfd().value();
    signal_eventfd(fd.get());
    std::binary_semaphore called(0);
    thread->run([&] { thread->watch_signal(fd.get(), [&] { called.release(); }); });
    called.acquire();
    thread->run([&] { thread->unwatch(fd.get()); });
  }
}

TEST_CASE("a handler may unwatch itself, and its place is used again") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    for (int round = 0; round < 600; ++round) {
      const UniqueFd fd = make_eventfd().value();
      std::binary_semaphore called(0);
      thread->run([&] {
        thread->watch(fd.get(), [&] {
          thread->unwatch(fd.get());
          called.release();
        });
      });
      signal_eventfd(fd.get());
      called.acquire();
      thread->run([] {});
    }
  }
}

TEST_CASE("writability is reported when asked for") {
  const WatchFor what = GENERATE(WatchFor::kReadableOrWritable, WatchFor::kWritable);
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const UniqueFd read_end(ends[0]);
    const UniqueFd write_end(ends[1]);
    std::binary_semaphore called(0);
    thread->run([&] {
      thread->watch(
          write_end.get(),
          [&] {
            thread->unwatch(write_end.get());
            called.release();
          },
          what);
    });
    called.acquire();
    thread->run([] {});
  }
}

TEST_CASE("who waits to write is not told that there is something to read") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    const UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);
    const std::vector<char> much(1U << 20U);
    while (::send(ours.get(), much.data(), much.size(), 0) > 0) {
    }
    REQUIRE(::send(theirs.get(), "x", 1, 0) == 1);
    bool called = false;
    thread->run([&] {
      thread->watch(
          ours.get(), [&] { called = true; }, WatchFor::kWritable);
    });
    // Turns that would report it.
    for (int i = 0; i < 10; ++i) thread->run([] {});
    thread->run([&] { thread->unwatch(ours.get()); });
    CHECK_FALSE(called);
  }
}

TEST_CASE("the end of a batch is told once per turn, however often asked") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    CountingEnd end;
    thread->run([&] {
      for (int i = 0; i < 10; ++i) thread->call_at_batch_end(end);
    });
    thread->run([] {});
    int calls = 0;
    thread->run([&] { calls = end.calls; });
    CHECK(calls == 1);
  }
}

TEST_CASE("on the caller's thread, run() and wait_for() turn the loop, and inside a turn do not") {
  const auto thread = IoThread::on_caller(std::make_unique<SimEngine>(SimEngine::Config()));
  CHECK(thread->is_current());
  CountingEnd end;
  bool nested = false;
  thread->run([&] {
    thread->call_at_batch_end(end);
    thread->run([&] { nested = true; });
    CHECK(end.calls == 0);
  });
  CHECK(nested);
  CHECK(end.calls == 1);  // the turn was a whole one
  struct Expiry : IoTimer {
    std::binary_semaphore released{0};
  } timer;
  timer.expired = [](IoTimer& expired) { static_cast<Expiry&>(expired).released.release(); };
  thread->run([&] { thread->set_timer(timer, 5'000'000'000); });
  thread->wait_for(timer.released);
  CHECK(thread->turn_ns() == 5'000'000'000);
}

TEST_CASE("a deferred operation is done in a later turn, never at once") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    struct Deferred : IoOp {
      int turns = 0;
      bool inside = false;
      IoThread* thread = nullptr;
      std::binary_semaphore ended{0};
    } op;
    op.thread = thread.get();
    op.done = [](IoOp& base) {
      auto& self = static_cast<Deferred&>(base);
      ENSURE(!self.inside);
      if (++self.turns == 5) {
        self.ended.release();
        return;
      }
      self.inside = true;
      self.thread->defer(self);
      self.inside = false;
    };
    thread->run([&] {
      op.inside = true;
      thread->defer(op);
      op.inside = false;
    });
    op.ended.acquire();
    thread->run([] {});
    CHECK(op.turns == 5);
  }
}

TEST_CASE("timers expire in the order of their times, once, and not when cancelled") {
  for (const EngineKind kind : kBothEngines) {
    auto thread = start(kind);
    std::vector<int> expired;
    std::binary_semaphore last(0);
    struct Timed : IoTimer {
      std::function<void()> call;
    };
    Timed timers[4];
    thread->run([&] {
      const int64_t now = thread->turn_ns();
      for (int i = 0; i < 4; ++i) {
        timers[i].expired = [](IoTimer& timer) { static_cast<Timed&>(timer).call(); };
        timers[i].call = [&, i] {
          ENSURE(thread->is_current() && !timers[i].set());
          expired.push_back(i);
          if (i == 0) last.release();
        };
      }
      thread->set_timer(timers[0], now + 3'000'000);
      thread->set_timer(timers[1], now + 1'000'000);
      thread->set_timer(timers[2], now + 2'000'000);
      thread->set_timer(timers[3], now + 1'500'000);
      thread->set_timer(timers[1], now + 2'500'000);
      thread->cancel_timer(timers[3]);
    });
    last.acquire();
    thread->run([&] { thread->cancel_timer(timers[0]); });
    CHECK(expired == std::vector{2, 1, 0});
  }
}

TEST_CASE("once a doorbell followed a completion soon, the loop looks by itself after the next") {
  for (const EngineKind kind : kBothEngines) {
    IoThread::Config config;
    config.engine = kind;
    config.poll_max_ns = 1'000'000'000;  // however slow this host is
    auto thread = IoThread::start(std::move(config)).value();
    struct : Poller {
      IoThread* thread = nullptr;
      int polls = 0;
      int asked = 0;
      int64_t polled_ns = 0;
      bool poll() override {
        polled_ns = thread->turn_ns();
        return ++polls > 0;
      }
      void ask_for_wakeup() override { ++asked; }
      bool few_in_flight() const override { return false; }
    } poller;
    const UniqueFd doorbell = make_eventfd().value();
    poller.thread = thread.get();
    thread->run([&] {
      thread->add_poller(poller);
      thread->watch_signal(doorbell.get(), [] {});
    });
    const TestImage image(1U << 20U);
    const UniqueFd fd = image.open();
    const AlignedBuffer buffer(512);
    iovec part = buffer.part(0, 512);
    struct Read : IoOp {
      IoThread* thread = nullptr;
      int doorbell = -1;  // rung when it ends
      int64_t ended_ns = 0;
      std::counting_semaphore<> ended{0};
    } read;
    read.thread = thread.get();
    read.iov = &part;
    read.iov_count = 1;
    read.file.fd = fd.get();
    read.done = [](IoOp& op) {
      auto& self = static_cast<Read&>(op);
      self.ended_ns = self.thread->turn_ns();
      if (self.doorbell >= 0) signal_eventfd(self.doorbell);
      self.ended.release();
    };
    bool ring = true;
    for (int polls = 0; polls == 0; ring = !ring) {
      thread->run([&] {
        read.doorbell = ring ? doorbell.get() : -1;
        thread->engine().submit(read);
      });
      read.ended.acquire();
      thread->run([&] { polls = poller.polls; });
    }
    thread->run([&] {
      CHECK(poller.asked > 0);
      CHECK(poller.polled_ns > read.ended_ns);
      thread->unwatch(doorbell.get());
      thread->remove_poller(poller);
    });
  }
}

}  // namespace plumb
