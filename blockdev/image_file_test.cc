#include "blockdev/image_file.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "blockdev/file_lock.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

std::string error_of(const std::string& path, bool read_only = false) {
  Result<UniqueFd> opened = open_image_file({.path = path, .read_only = read_only});
  return opened.ok() ? "" : opened.error().message;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a good image opens with direct I/O, for writing or only for reading") {
  const TestImage image(1U << 20U);
  {
    const UniqueFd fd = open_image_file({.path = image.path()}).value();
    CHECK((::fcntl(fd.get(), F_GETFL) & (O_DIRECT | O_ACCMODE)) == (O_DIRECT | O_RDWR));
  }
  const UniqueFd fd = open_image_file({.path = image.path(), .read_only = true}).value();
  CHECK((::fcntl(fd.get(), F_GETFL) & (O_DIRECT | O_ACCMODE)) == (O_DIRECT | O_RDONLY));
  CHECK((::fcntl(fd.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("each bad image is refused with its own sentence") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/disk.img";
  CHECK(error_of(path) == "image " + path + " does not exist");
  CHECK(error_of(folder.path()) == "image " + folder.path() + " is a folder, not a file");
  CHECK(has(error_of("/dev/null"), "image /dev/null is a device, not a file"));
  const std::string fifo = folder.path() + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(error_of(fifo) == "image " + fifo + " is not a regular file");
  {
    const UniqueFd file = open_file("image", path, O_RDWR | O_CREAT).value();
    CHECK(error_of(path) == "image " + path + " is empty");
    REQUIRE(::ftruncate(file.get(), 1000) == 0);
    CHECK(error_of(path) == "image " + path + " has 1000 bytes, which is not a multiple of 512");
    REQUIRE(::ftruncate(file.get(), 1024) == 0);
    CHECK(error_of(path).empty());
  }
  REQUIRE(::chmod(path.c_str(), 0400) == 0);
  CHECK(has(error_of(path), "add read-only to use it as it is"));
  CHECK(error_of(path, true).empty());
}

TEST_CASE("an image in memory is refused, because direct I/O means nothing there") {
  const std::string path = "/dev/shm/plumb-test-" + std::to_string(::getpid());
  {
    const UniqueFd file = open_file("image", path, O_RDWR | O_CREAT).value();
    REQUIRE(::ftruncate(file.get(), 4096) == 0);
  }
  const std::string error = error_of(path);
  ::unlink(path.c_str());
  CHECK(has(error, "without direct I/O (O_DIRECT), such as tmpfs"));
}

TEST_CASE("an image in use by this VM or another program is refused, its holder named") {
  const TestImage image(1U << 20U);
  UniqueFd mine = open_image_file({.path = image.path()}).value();
  for (const bool read_only : {false, true}) {
    Result<UniqueFd> again = open_image_file({.path = image.path(), .read_only = read_only});
    REQUIRE(!again.ok());
    CHECK(again.error().kind == ErrorKind::kLocked);
    CHECK(has(again.error().message, "is already used by another disk of this VM"));
  }
  // In a child the holder is another process: ours, which is no plumb-vm.
  int pipe_ends[2];
  REQUIRE(::pipe(pipe_ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    mine.reset();  // or the child would be a holder, too
    const std::string error = error_of(image.path());
    const auto written = ::write(pipe_ends[1], error.data(), error.size());
    ::_exit(written > 0 ? 0 : 1);
  }
  ::close(pipe_ends[1]);
  char text[1024] = {};
  const auto length = ::read(pipe_ends[0], text, sizeof(text) - 1);
  ::close(pipe_ends[0]);
  CHECK(length > 0);
  CHECK(has(text, "(pid " + std::to_string(::getpid()) + ")"));
  CHECK(has(text, "is in use by"));
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
}

TEST_CASE("a VM that holds an image is named") {
  const TestImage image(1U << 20U);
  const TemporaryFolder folder;
  // A stand-in for a VM's process: argv is "plumb-vm db1", and it has the locked descriptor. It
  // is cat, which reads its standard input as the file db1 until the test closes it.
  REQUIRE(::symlink("/dev/stdin", (folder.path() + "/db1").c_str()) == 0);
  UniqueFd locked = open_image_file({.path = image.path()}).value();
  int pipe_ends[2];
  REQUIRE(::pipe(pipe_ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe_ends[0], 0);
    ::close(pipe_ends[1]);
    ::fcntl(locked.get(), F_SETFD, 0);
    if (::chdir(folder.path().c_str()) != 0) ::_exit(1);
    ::execl("/bin/cat", "/usr/libexec/plumb/plumb-vm", "db1", nullptr);
    ::_exit(1);
  }
  ::close(pipe_ends[0]);
  locked.reset();
  // cat runs, or is about to: its arguments appear with the exec.
  const std::string arguments = "/proc/" + std::to_string(child) + "/cmdline";
  while (!has(read_attribute(arguments), "plumb-vm")) ::sched_yield();
  Result<UniqueFd> opened = open_image_file({.path = image.path()});
  ::close(pipe_ends[1]);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  REQUIRE(!opened.ok());
  CHECK(opened.error().kind == ErrorKind::kLocked);
  CHECK(opened.error().message ==
        "image " + image.path() + " is in use by VM db1 (pid " + std::to_string(child) + ")");
}

TEST_CASE("readers share an image, a writer does not join them") {
  const TestImage image(1U << 20U);
  const UniqueFd first = open_image_file({.path = image.path(), .read_only = true}).value();
  CHECK(open_image_file({.path = image.path(), .read_only = true}).ok());
  CHECK(!open_image_file({.path = image.path()}).ok());
}

TEST_CASE("a lock ends with its descriptor") {
  const TestImage image(1U << 20U);
  open_image_file({.path = image.path()}).value().reset();
  CHECK(open_image_file({.path = image.path()}).ok());
}

}  // namespace plumb
