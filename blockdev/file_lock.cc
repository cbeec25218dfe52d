#include "blockdev/file_lock.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>

#include "base/file.h"

namespace plumb {
namespace {

constexpr int kLockPatienceMs = 2000;
constexpr int kLockStepMs = 20;

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};
using Folder = std::unique_ptr<DIR, CloseFolder>;

// The number a folder entry is named with, or -1.
int number_name(const char* name) {
  int value = 0;
  for (const char* at = name; *at != '\0'; ++at) {
    if (*at < '0' || *at > '9' || value > 100'000'000) return -1;
    value = value * 10 + (*at - '0');
  }
  return *name == '\0' ? -1 : value;
}

// Whether the open file PID/FD is `file` and holds a lock of its own.
bool holds_lock(int pid, int fd, const struct stat& file) {
  struct stat status {};
  if (::stat(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), &status) != 0) return false;
  if (status.st_dev != file.st_dev || status.st_ino != file.st_ino) return false;
  return read_attribute(fmt::format("/proc/{}/fdinfo/{}", pid, fd)).find("OFDLCK") !=
         std::string::npos;
}

bool any_lock(int pid, int except_fd, const struct stat& file) {
  const Folder folder(::opendir(fmt::format("/proc/{}/fd", pid).c_str()));
  if (folder == nullptr) return false;
  while (const dirent* entry = ::readdir(folder.get())) {
    const int fd = number_name(entry->d_name);
    if (fd >= 0 && fd != except_fd && holds_lock(pid, fd, file)) return true;
  }
  return false;
}

LockHolder describe(int pid) {
  LockHolder holder{.pid = pid, .vm = {}, .executable = {}};
  // Arguments end with a NUL each.
  const std::string arguments = read_attribute(fmt::format("/proc/{}/cmdline", pid));
  const size_t first_end = arguments.find('\0');
  std::string program = arguments.substr(0, first_end);
  program = program.substr(program.rfind('/') + 1);
  holder.executable = read_attribute(fmt::format("/proc/{}/comm", pid));
  if (program == "plumb-vm" && first_end != std::string::npos) {
    const size_t start = first_end + 1;
    const size_t end = arguments.find('\0', start);
    holder.vm = arguments.substr(start, end == std::string::npos ? end : end - start);
  }
  return holder;
}

Error locked(const std::string& path, const LockHolder& holder) {
  if (holder.pid == 0) {
    return make_error(ErrorKind::kLocked,
                      "image {} is locked by another program, which could not be found", path);
  }
  if (holder.pid == ::getpid()) {
    return make_error(ErrorKind::kLocked, "image {} is already used by another disk of this VM",
                      path);
  }
  if (!holder.vm.empty()) {
    return make_error(ErrorKind::kLocked, "image {} is in use by VM {} (pid {})", path, holder.vm,
                      holder.pid);
  }
  return make_error(ErrorKind::kLocked, "image {} is locked by {} (pid {})", path,
                    holder.executable, holder.pid);
}

}  // namespace

LockHolder find_lock_holder(int fd) {
  struct stat file {};
  if (::fstat(fd, &file) != 0) return {};
  const Folder processes(::opendir("/proc"));
  if (processes == nullptr) return {};
  while (const dirent* entry = ::readdir(processes.get())) {
    const int pid = number_name(entry->d_name);
    if (pid <= 0) continue;
    const int except_fd = pid == ::getpid() ? fd : -1;
    if (any_lock(pid, except_fd, file)) return describe(pid);
  }
  return {};
}

Result<> lock_file(int fd, const std::string& path, bool exclusive) {
  struct flock lock {};
  lock.l_type = exclusive ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;  // from 0, length 0: the whole file, however it grows
  for (int waited_ms = 0;; waited_ms += kLockStepMs) {
    if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
    if (errno != EAGAIN && errno != EACCES)
      return os_error(errno, "image {} cannot be locked", path);
    const LockHolder holder = find_lock_holder(fd);
    // A lock without a holder is that of a VM killed a moment ago, whose ring the kernel is taking
    // down; it ends by itself.
    if (holder.pid != 0 || waited_ms >= kLockPatienceMs) return locked(path, holder);
    std::this_thread::sleep_for(std::chrono::milliseconds(kLockStepMs));
  }
}

}  // namespace plumb
