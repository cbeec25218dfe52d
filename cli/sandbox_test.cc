#include "cli/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/pr.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "base/unix_socket.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

// What does not hold in a child process of its own; "" when all does.
std::string in_child(const std::function<std::string()>& body) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string text = body();
    [[maybe_unused]] const ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text(1000, '\0');
  text.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(ends[0], text.data(), 1000))));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? text : "the child ended with " + std::to_string(status);
}

// The capabilities in force on the calling thread; 1 when they cannot be read.
uint32_t capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  return ::syscall(SYS_capget, &header, sets) == 0 ? sets[0].effective | sets[0].permitted : 1;
}

bool fails_with(int error, long result) { return result < 0 && errno == error; }

}  // namespace

TEST_CASE("without its privileges a process keeps its sockets, and no other file") {
  const TemporaryFolder folder;
  ::mkdir((folder.path() + "/vm").c_str(), 0700);
  const std::string file = folder.path() + "/file";
  std::ofstream(file) << "text";
  CHECK(in_child([&]() -> std::string {
          const int kept = ::open(file.c_str(), O_RDWR);
          Result<> given_up = give_up_privileges(folder.path() + "/vm");
          if (!given_up) return given_up.error().message;
          if (!fails_with(EACCES, ::open(file.c_str(), O_RDONLY))) return "a file can be opened";
          if (!fails_with(EACCES,
                          ::open((folder.path() + "/vm/new").c_str(), O_RDWR | O_CREAT, 0600)))
            return "a file can be made in the runtime folder";
          if (!fails_with(EACCES, ::open("/proc/self/mem", O_RDWR))) return "/proc/self/mem opens";
          if (!fails_with(EPERM, ::chroot("/"))) return "it can change its root";
          if (!listen_unix(folder.path() + "/vm/socket", 1))
            return "no socket in the runtime folder";
          if (::unlink((folder.path() + "/vm/socket").c_str()) != 0)
            return "its socket stays behind";
          if (::open("/sys/devices/system/cpu/online", O_RDONLY) < 0) return "sysfs cannot be read";
          if (::write(kept, "new", 3) != 3) return "an open file cannot be written";
          return "";
        }) == "");
}

TEST_CASE("what a VM keeps of its capabilities is for the threads that need it") {
  static constexpr uint32_t kRawIo = 1U << CAP_SYS_RAWIO;
  if ((capabilities() & kRawIo) == 0) {
    WARN("SKIPPED: this user has no CAP_SYS_RAWIO to keep");
    return;
  }
  const TemporaryFolder folder;
  CHECK(in_child([&]() -> std::string {
          Result<> given_up =
              give_up_privileges(folder.path(), {.memory_lock = true, .raw_io = true});
          if (!given_up) return given_up.error().message;
          if (capabilities() != (kRawIo | 1U << CAP_IPC_LOCK)) return "more or less was kept";
          std::string found;
          std::thread([&found] {
            if (!keep_only_raw_io() || capabilities() != kRawIo) found = "a thread keeps not that";
          }).join();
          if (!drop_capabilities() || capabilities() != 0) return "the process keeps some";
          std::thread([&found] {
            if (!keep_only_raw_io() || capabilities() != 0) found = "a later thread has it again";
          }).join();
          return found;
        }) == "");
  CHECK(in_child([&]() -> std::string {
          Result<> given_up = give_up_privileges(folder.path());
          return given_up && capabilities() == 0 ? "" : "a VM without such disks keeps some";
        }) == "");
}

TEST_CASE("the reservation broker keeps sysfs and the ioctls it exists for") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("SKIPPED: sanitizers make system calls of their own");
  return;
#endif
  CHECK(in_child([&]() -> std::string {
          const int null = ::open("/dev/null", O_RDWR);
          Result<> given_up = give_up_broker_privileges();
          if (given_up) given_up = restrict_broker_system_calls();
          if (!given_up) return given_up.error().message;
          if (!fails_with(EACCES, ::open("/dev/null", O_RDONLY))) return "a file can be opened";
          if (::open("/sys/devices/system/cpu/online", O_RDONLY) < 0) return "sysfs cannot be read";
          if (!fails_with(ENOTTY, ::ioctl(null, SG_IO, nullptr))) return "SG_IO is not let through";
          if (!fails_with(ENOTTY, ::ioctl(null, IOC_PR_CLEAR, nullptr)))
            return "nor is IOC_PR_CLEAR";
          if (!fails_with(EPERM, ::ioctl(null, BLKDISCARD, nullptr)))
            return "LUNs can be discarded";
          if (!fails_with(EPERM, ::pwrite(null, "x", 1, 0)))
            return "LUNs can be written at an offset";
          if (!fails_with(EPERM, ::socket(AF_UNIX, SOCK_STREAM, 0))) return "a socket can be made";
          if (!fails_with(EPERM, ::execl("/bin/true", "true", nullptr)))
            return "programs can be run";
          if (!fails_with(EPERM, ::fork())) return "a process can be made";
          if (!fails_with(EPERM, ::ptrace(PTRACE_TRACEME, 0, 0, 0))) return "it can be traced";
          bool ran = false;
          std::thread([&ran] { ran = true; }).join();
          return ran ? "" : "no thread can be made";
        }) == "");
}

TEST_CASE("with its system calls restricted a process can serve a VM, and nothing else") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("SKIPPED: sanitizers make system calls of their own");
  return;
#endif
  CHECK(in_child([&]() -> std::string {
          bool ran = false;
          const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
          ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
          Result<> restricted = restrict_system_calls();
          if (!restricted) return restricted.error().message;
          if (!fails_with(EPERM, ::open("/dev/null", O_RDONLY))) return "a file can be opened";
          if (!fails_with(EPERM, ::socket(AF_INET, SOCK_STREAM, 0))) return "a socket can be made";
          if (!fails_with(EPERM, ::execl("/bin/true", "true", nullptr)))
            return "programs can be run";
          if (!fails_with(EPERM, ::fork())) return "a process can be made";
          if (!fails_with(EPERM, ::kill(::getppid(), 0))) return "another process can get signals";
          if (!fails_with(EPERM, ::ptrace(PTRACE_TRACEME, 0, 0, 0))) return "it can be traced";
          if (!fails_with(EPERM, ::ioctl(master, TIOCSTI, "x")))
            return "it can type into a terminal";
          if (::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0) != MAP_FAILED)
            return "memory can be written and run";
          if (!fails_with(EPERM, ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))) return "prctl is free";
          std::thread([&ran] { ran = true; }).join();
          return ran ? "" : "no thread can be made";
        }) == "");
}

}  // namespace plumb
