#include "base/process.h"

#include <fcntl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

namespace plumb {
namespace {

constexpr int kPatienceMs = 60'000;
int g_to_child = -1;
volatile sig_atomic_t g_signals = 0;

// Lets the child end when several signals have come.
void on_alarm(int) {
  constexpr int kEnough = 3;
  g_signals = g_signals + 1;
  if (g_signals == kEnough) static_cast<void>(!::write(g_to_child, "x", 1));
}

}  // namespace

TEST_CASE("a process is waited for through signals, and one that goes on is told") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[1]);
    char byte = 0;
    ::_exit(::read(ends[0], &byte, 1) == 1 ? 0 : 1);
  }
  REQUIRE(child > 0);
  CHECK_FALSE(wait_for_end(child, 0));

  g_to_child = ends[1];
  struct sigaction action {};
  action.sa_handler = on_alarm;
  struct sigaction before {};
  REQUIRE(::sigaction(SIGALRM, &action, &before) == 0);
  const itimerval often{{0, 20'000}, {0, 20'000}};
  const itimerval never{};
  ::setitimer(ITIMER_REAL, &often, nullptr);
  CHECK(wait_for_end(child, kPatienceMs));
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  ::close(ends[1]);  // the child ends, also when it has not been told to

  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(wait_for_end(child, 0));
  ::close(ends[0]);
}

}  // namespace plumb
