#include "cli/runtime_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/temporary_folder.h"

namespace plumb {
namespace {

struct RunDir {
  RunDir() { ::setenv("PLUMB_RUN_DIR", folder.path().c_str(), 1); }
  ~RunDir() { ::unsetenv("PLUMB_RUN_DIR"); }
  TemporaryFolder folder;
};

}  // namespace

TEST_CASE("a VM runs as long as its lock is held") {
  const RunDir run_dir;
  CHECK(running_pid("db1") == 0);
  {
    const UniqueFd lock = lock_runtime_folder("db1").value();
    CHECK(running_pid("db1") == ::getpid());
    CHECK(running_vms() == std::vector<std::string>{"db1"});
  }
  CHECK(running_pid("db1") == 0);
  CHECK(running_vms().empty());
}

TEST_CASE("a name that runs already is refused with the holder's pid") {
  const RunDir run_dir;
  const UniqueFd lock = lock_runtime_folder("db1").value();
  Result<UniqueFd> second = lock_runtime_folder("db1");
  REQUIRE_FALSE(second.ok());
  CHECK(second.error().kind == ErrorKind::kLocked);
  CHECK(second.error().message.find(std::to_string(::getpid())) != std::string::npos);
  CHECK(lock_runtime_folder("db2").ok());
}

TEST_CASE("the runtime folder of a VM is private") {
  const RunDir run_dir;
  const UniqueFd lock = lock_runtime_folder("db1").value();
  struct stat status {};
  REQUIRE(::stat(RuntimePaths("db1").folder.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0700);
}

}  // namespace plumb
