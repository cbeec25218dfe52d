#include "snapshot/arrays/resume_guard.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/child_process.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

// Whether the guard resumes is seen in a file, which outlives all processes of a test.
class Resumed {
 public:
  std::function<void()> action() const {
    return [path = path()] { ::close(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); };
  }
  bool seen() const { return ::access(path().c_str(), F_OK) == 0; }

 private:
  std::string path() const { return folder_.path() + "/resumed"; }
  TemporaryFolder folder_;
};

constexpr unsigned kNever = 600'000;

}  // namespace

TEST_CASE("a guard does nothing while all goes well") {
  const Resumed resumed;
  { const ResumeGuard unused = ResumeGuard::make(resumed.action(), kNever).value(); }
  ResumeGuard guard = ResumeGuard::make(resumed.action(), kNever).value();
  guard.begin();
  CHECK(guard.end());
  CHECK_FALSE(resumed.seen());
}

TEST_CASE("a guard resumes when the process dies in between") {
  const Resumed resumed;
  // The guard has the write end of a pipe as its standard output only: its end is seen there,
  // behind what a runtime flushes at an exit.
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const std::string said = in_child([&resumed, &ends] {
    ENSURE(::dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
    ResumeGuard guard = ResumeGuard::make(resumed.action(), kNever).value();
    guard.begin();
    ::_exit(0);  // no destructor: as with SIGKILL
    return std::string();
  });
  ::close(ends[1]);
  char flushed[256];
  while (::read(ends[0], flushed, sizeof(flushed)) > 0) {
  }
  ::close(ends[0]);
  CHECK(resumed.seen());
}

TEST_CASE("a guard resumes when it takes too long, and says so") {
  const Resumed resumed;
  ResumeGuard guard = ResumeGuard::make(resumed.action(), 1).value();
  guard.begin();
  // The guard has no other way to end than to resume.
  while (!resumed.seen()) ::poll(nullptr, 0, 1);
  CHECK_FALSE(guard.end());
}

}  // namespace plumb
