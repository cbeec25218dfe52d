#include "blockdev/cow_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace plumb {
namespace {

constexpr size_t kPieceBytes = 1U << 20U;

}  // namespace

Result<std::unique_ptr<CowFdFile>> CowFdFile::open(UniqueFd fd, std::string label) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0) return os_error(errno, "{} is not open", label);
  if ((flags & O_DIRECT) == 0 && ::fcntl(fd.get(), F_SETFL, flags | O_DIRECT) != 0) {
    return os_error(errno, "{} cannot be used with direct I/O (O_DIRECT)", label);
  }
  AlignedMemory piece = aligned_memory(kPieceBytes);
  if (piece == nullptr) return failed("there is no memory to read {}", label);
  return std::unique_ptr<CowFdFile>(
      new CowFdFile(std::move(fd), std::move(label), std::move(piece)));
}

Result<> CowFdFile::read(uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    // Whole pages around it, which direct I/O takes on every device.
    const uint64_t skip = offset % kPageBytes;
    const uint64_t pages = (skip + to.size() + kPageBytes - 1) / kPageBytes * kPageBytes;
    const ssize_t moved = ::pread(fd_.get(), piece_.get(), std::min<uint64_t>(pages, kPieceBytes),
                                  static_cast<off_t>(offset - skip));
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return os_error(errno, "{} cannot be read at {}", label_, offset);
    const auto found = static_cast<uint64_t>(moved);
    if (found <= skip) return failed("{} ends before {}, which should be read", label_, offset);
    const size_t taken = std::min<uint64_t>(found - skip, to.size());
    std::memcpy(to.data(), piece_.get() + skip, taken);
    to = to.subspan(taken);
    offset += taken;
  }
  return {};
}

Result<> CowFdFile::write(uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const size_t wanted = std::min(from.size(), kPieceBytes);
    std::memcpy(piece_.get(), from.data(), wanted);
    const ssize_t moved = ::pwrite(fd_.get(), piece_.get(), wanted, static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) {
      return os_error(moved < 0 ? errno : EIO, "{} cannot be written at {}", label_, offset);
    }
    from = from.subspan(static_cast<size_t>(moved));
    offset += static_cast<uint64_t>(moved);
  }
  return {};
}

Result<> CowFdFile::sync() {
  if (::fdatasync(fd_.get()) != 0) return os_error(errno, "{} cannot be written", label_);
  return {};
}

Result<bool> CowFdFile::has_writer() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd_.get(), F_OFD_GETLK, &lock) != 0) {
    return os_error(errno, "{} does not tell its locks", label_);
  }
  return lock.l_type == F_WRLCK;
}

}  // namespace plumb
