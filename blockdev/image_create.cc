#include "blockdev/image_create.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "base/file.h"
#include "base/size.h"

namespace plumb {
namespace {

constexpr uint64_t kGranule = 4096;  // so that any block size fits
constexpr size_t kPieceBytes = 4U << 20U;
constexpr mode_t kMode = 0600;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

Result<> write_zeroes(int fd, const ImageCreateConfig& config) {
  const std::unique_ptr<void, Free> zeroes(std::aligned_alloc(kGranule, kPieceBytes));
  if (!zeroes) return failed("there is no memory for {} of zeroes", format_size(kPieceBytes));
  std::fill_n(static_cast<std::byte*>(zeroes.get()), kPieceBytes, std::byte{0});
  for (uint64_t done = 0; done < config.size_bytes;) {
    const uint64_t piece = std::min<uint64_t>(config.size_bytes - done, kPieceBytes);
    const ssize_t written = ::pwrite(fd, zeroes.get(), piece, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return os_error(written < 0 ? errno : EIO, "image {} cannot be written", config.path);
    }
    done += static_cast<uint64_t>(written);
    if (config.progress) config.progress(done);
  }
  return {};
}

Result<> check_room(const ImageCreateConfig& config, const std::string& folder) {
  struct statvfs space {};
  if (::statvfs(folder.c_str(), &space) != 0) {
    return os_error(errno, "folder {} of image {} cannot be used", folder, config.path);
  }
  const uint64_t free_bytes = uint64_t{space.f_bavail} * space.f_frsize;
  if (config.sparse || config.size_bytes <= free_bytes) return {};
  return failed("image {} of {} does not fit: {} has {} free", config.path,
                format_size(config.size_bytes), folder, format_size(free_bytes));
}

}  // namespace

Result<> create_image_file(const ImageCreateConfig& config) {
  if (config.size_bytes == 0 || config.size_bytes % kGranule != 0) {
    return usage_error("an image of {} bytes cannot be made; give a multiple of {}",
                       config.size_bytes, kGranule);
  }
  const std::string parent = std::filesystem::path(config.path).parent_path();
  const std::string folder = parent.empty() ? std::string(1, '.') : parent;
  if (std::filesystem::exists(std::filesystem::symlink_status(config.path))) {
    return failed("{} exists already; it is left as it is", config.path);
  }
  TRY(check_room(config, folder));
  // Without a name until it is whole: what ends us early leaves nothing behind.
  const UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  if (!fd) return os_error(errno, "image {} cannot be made in {}", config.path, folder);
  if (::ftruncate(fd.get(), static_cast<off_t>(config.size_bytes)) != 0) {
    return os_error(errno, "image {} cannot have {} bytes", config.path, config.size_bytes);
  }
  if (!config.sparse) {
    if (::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_DIRECT) != 0) {
      return os_error(errno, "{} has no direct I/O (O_DIRECT); images need ext4, XFS or Btrfs",
                      folder);
    }
    TRY(write_zeroes(fd.get(), config));
  }
  if (::fsync(fd.get()) != 0) return os_error(errno, "image {} cannot be written", config.path);
  const std::string source = fmt::format("/proc/self/fd/{}", fd.get());
  if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, config.path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return os_error(errno, "image {} cannot be named so", config.path);
  }
  const UniqueFd directory = TRY(open_file("folder", folder, O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return os_error(errno, "folder {} cannot be written", folder);
  return {};
}

}  // namespace plumb
