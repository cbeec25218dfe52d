#include "blockdev/file_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>

#include "base/file.h"
#include "base/process.h"

namespace plumb {
namespace {

constexpr int kLockPatienceMs = 2000;
constexpr int kLockStepMs = 20;

// Who holds such a lock on the file behind `fd` by another descriptor. None when it cannot be seen:
// another host, a process we may not look into, or one that is being taken down.
std::optional<pid_t> find_holder(int fd) {
  struct stat file {};
  if (::fstat(fd, &file) != 0) return std::nullopt;
  return find_process([&file, fd, own = ::getpid()](const ProcessFd& open) {
    struct stat status {};
    if (open.pid == own && open.fd == fd) return false;
    if (::stat(open.path.c_str(), &status) != 0 || status.st_dev != file.st_dev ||
        status.st_ino != file.st_ino) {
      return false;
    }
    return read_attribute(open.info).find("OFDLCK") != std::string::npos;
  });
}

Error locked(const std::string& what, std::optional<pid_t> holder) {
  if (!holder) {
    return make_error(ErrorKind::kLocked,
                      "{} is locked by another program, which could not be found", what);
  }
  if (*holder == ::getpid()) {
    return make_error(ErrorKind::kLocked, "{} is already used by another disk of this VM", what);
  }
  return make_error(ErrorKind::kLocked, "{} is in use by {}", what, describe_process(*holder));
}

// Calls `attempt` until it succeeds or somebody holds a lock against it; it leaves errno as
// F_OFD_SETLK does.
template <typename Attempt>
Result<> patiently(int fd, const std::string& what, Attempt attempt) {
  for (int waited_ms = 0;; waited_ms += kLockStepMs) {
    if (attempt()) return {};
    if (errno != EAGAIN && errno != EACCES) return os_error(errno, "{} cannot be locked", what);
    const std::optional<pid_t> holder = find_holder(fd);
    // A lock without a holder is that of a VM killed a moment ago, whose ring the kernel is taking
    // down; it ends by itself.
    if (holder || waited_ms >= kLockPatienceMs) return locked(what, holder);
    std::this_thread::sleep_for(std::chrono::milliseconds(kLockStepMs));
  }
}

struct flock whole_file(bool exclusive) {
  struct flock lock {};
  lock.l_type = exclusive ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;  // from 0, length 0: the whole file, however it grows
  return lock;
}

}  // namespace

Result<> lock_file(int fd, const std::string& what, bool exclusive) {
  return patiently(fd, what, [fd, exclusive] {
    struct flock lock = whole_file(exclusive);
    return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
  });
}

Result<> check_unlocked(int fd, const std::string& what) {
  return patiently(fd, what, [fd] {
    struct flock lock = whole_file(true);
    if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return false;
    errno = EAGAIN;  // what lock_file() would have met
    return lock.l_type == F_UNLCK;
  });
}

}  // namespace plumb
