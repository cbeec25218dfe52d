#include "blockdev/image_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>

#include "base/file.h"
#include "blockdev/file_lock.h"

namespace plumb {
namespace {

constexpr off_t kSectorBytes = 512;

Result<> check_type(const std::string& path, const struct stat& status) {
  if (S_ISDIR(status.st_mode)) return failed("image {} is a folder, not a file", path);
  if (S_ISBLK(status.st_mode) || S_ISCHR(status.st_mode)) {
    return failed("image {} is a device, not a file; name a LUN by its WWN (see plumb lun list)",
                  path);
  }
  if (!S_ISREG(status.st_mode)) return failed("image {} is not a regular file", path);
  return {};
}

Result<> check_size(const std::string& path, const struct stat& status) {
  if (status.st_size == 0) return failed("image {} is empty", path);
  if (status.st_size % kSectorBytes != 0) {
    return failed("image {} has {} bytes, which is not a multiple of 512", path, status.st_size);
  }
  return {};
}

Error no_direct_io(const std::string& path) {
  return failed(
      "image {} is on a file system without direct I/O (O_DIRECT), such as tmpfs; move "
      "it to ext4, XFS or Btrfs",
      path);
}

Error cannot_open(const std::string& path, int error, bool read_only) {
  if (error == ENOENT) return failed("image {} does not exist", path);
  if (error == EINVAL) return no_direct_io(path);
  if ((error == EACCES || error == EROFS) && !read_only) {
    return os_error(error, "image {} cannot be written; add read-only to use it as it is", path);
  }
  return os_error(error, "image {} cannot be opened", path);
}

// Newer kernels accept O_DIRECT on file systems in memory, where it means nothing.
bool in_memory(int fd) {
  struct statfs file_system {};
  if (::fstatfs(fd, &file_system) != 0) return false;
  return file_system.f_type == TMPFS_MAGIC || file_system.f_type == RAMFS_MAGIC;
}

}  // namespace

Result<UniqueFd> open_image_file(const ImageFileConfig& config) {
  const std::string& path = config.path;
  // Looked at before it is opened: opening a device or a FIFO can have effects.
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return cannot_open(path, errno, config.read_only);
  TRY(check_type(path, status));
  const int mode = config.read_only ? O_RDONLY : O_RDWR;
  UniqueFd fd(::open(path.c_str(), mode | O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return cannot_open(path, errno, config.read_only);
  if (::fstat(fd.get(), &status) != 0) return os_error(errno, "image {} cannot be examined", path);
  TRY(check_type(path, status));
  if (in_memory(fd.get())) return no_direct_io(path);
  TRY(lock_file(fd.get(), "image " + path, !config.read_only));
  // A clone of a snapshot may have taken its place meanwhile, and has a lock of its own.
  if (!is_still_at(fd.get(), path)) {
    return make_error(ErrorKind::kLocked, "image {} was just replaced by another file; try again",
                      path);
  }
  // After the lock: until then another VM may have been resizing it.
  if (::fstat(fd.get(), &status) != 0) return os_error(errno, "image {} cannot be examined", path);
  TRY(check_size(path, status));
  if (!config.read_only && (status.st_mode & 0222) == 0) {
    return failed("image {} is a read-only file; add read-only to use it as it is", path);
  }
  ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  return fd;
}

}  // namespace plumb
