#include "base/process.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>

#include "base/file.h"
#include "base/unique_fd.h"

namespace plumb {
namespace {

// The number a folder in procfs is named with, or -1.
int number_of(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  int number = -1;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
  return parsed.ec == std::errc() && parsed.ptr == name.data() + name.size() ? number : -1;
}

// Calls `visit` with each entry that is named with a number until it returns true. Entries come
// and go meanwhile, and some folders are not ours to read.
bool any_number_in(const std::string& folder, const std::function<bool(int)>& visit) {
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const int number = number_of(it->path());
    if (number >= 0 && visit(number)) return true;
  }
  return false;
}

}  // namespace

bool wait_for_end(pid_t pid, int timeout_ms) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return true;
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  pollfd ended{process.get(), POLLIN, 0};
  int ready = ::poll(&ended, 1, timeout_ms);
  while (ready < 0 && errno == EINTR) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
    ready = ::poll(&ended, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
  }
  return ready > 0;
}

std::string describe_process(pid_t pid, const std::string& proc_root) {
  // The arguments, each ended by a NUL: a VM's process is "plumb-vm NAME".
  const std::string folder = fmt::format("{}/{}", proc_root, pid);
  const Result<std::string> content = read_file(folder + "/cmdline", 1U << 21U);
  const std::string arguments = content.ok() ? content.value() : std::string();
  const std::string program = arguments.substr(0, arguments.find('\0'));
  const std::string base = program.substr(program.rfind('/') + 1);
  if (base == "plumb-vm" && arguments.size() > program.size() + 1) {
    return fmt::format("VM {} (pid {})", arguments.c_str() + program.size() + 1, pid);
  }
  const std::string name = read_attribute(folder + "/comm");
  return fmt::format("{} (pid {})", name.empty() ? "a process" : name, pid);
}

std::optional<pid_t> find_process(const std::function<bool(const ProcessFd&)>& wanted,
                                  const std::string& proc_root) {
  std::optional<pid_t> found;
  any_number_in(proc_root, [&](int pid) {
    const std::string folder = fmt::format("{}/{}/", proc_root, pid);
    const bool has = any_number_in(folder + "fd", [&](int fd) {
      return wanted({.pid = pid,
                     .fd = fd,
                     .path = fmt::format("{}fd/{}", folder, fd),
                     .info = fmt::format("{}fdinfo/{}", folder, fd)});
    });
    if (has) found = pid;
    return has;
  });
  return found;
}

std::optional<std::string> process_with_device_open(dev_t device, const std::string& proc_root) {
  const pid_t own = ::getpid();
  const auto holder = find_process(
      [device, own](const ProcessFd& open) {
        struct stat status {};
        return open.pid != own && ::stat(open.path.c_str(), &status) == 0 &&
               S_ISBLK(status.st_mode) && status.st_rdev == device;
      },
      proc_root);
  if (!holder) return std::nullopt;
  return describe_process(*holder, proc_root);
}

}  // namespace plumb
