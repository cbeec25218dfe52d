#include "blockdev/file_facts.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/file.h"
#include "blockdev/limits.h"

namespace plumb {
namespace {

// A partition has its queue in the folder of its whole device.
std::string queue_folder(const FileFactsQuery& query, dev_t device) {
  const std::string base =
      fmt::format("{}/dev/block/{}:{}", query.sysfs_root, major(device), minor(device));
  struct stat status {};
  const bool own = ::stat((base + "/queue").c_str(), &status) == 0;
  return own ? base + "/queue/" : base + "/../queue/";
}

Result<> read_device(const FileFactsQuery& query, const struct stat& status, BlockInfo& info) {
  int logical = 0;
  unsigned physical = 0;
  info.size_bytes = TRY(file_size_bytes(query.fd, query.label));
  if (::ioctl(query.fd, BLKSSZGET, &logical) != 0) {
    return os_error(errno, "block device {} does not tell its block size", query.label);
  }
  if (::ioctl(query.fd, BLKPBSZGET, &physical) != 0) physical = static_cast<unsigned>(logical);
  const std::string queue = queue_folder(query, status.st_rdev);
  info.logical_block_size = static_cast<uint32_t>(logical);
  info.physical_block_size = physical;
  info.optimal_io_size = static_cast<uint32_t>(read_number_attribute(queue + "optimal_io_size", 0));
  info.memory_alignment = static_cast<uint32_t>(
      read_number_attribute(queue + "dma_alignment", info.logical_block_size - 1) + 1);
  // Unknown counts as volatile: a flush too many does no harm.
  info.volatile_cache = read_attribute(queue + "write_cache") != "write through";
  info.discard_granularity = static_cast<uint32_t>(
      std::max<uint64_t>(read_number_attribute(queue + "discard_granularity", 0), logical));
  info.max_discard_bytes =
      std::min(read_number_attribute(queue + "discard_max_bytes", 0), kMaxRangeBytes);
  info.max_write_zeroes_bytes = kMaxRangeBytes;
  return {};
}

// Btrfs files are on a device that has no folder in sysfs, and no write of theirs is a FUA write.
bool dsync_flushes(const FileFactsQuery& query, const struct stat& status) {
  const std::string queue = queue_folder(query, status.st_dev);
  return read_attribute(queue + "write_cache") != "write through" &&
         read_attribute(queue + "fua") != "1";
}

Result<> read_image(const FileFactsQuery& query, const struct stat& status, BlockInfo& info) {
  info.size_bytes = static_cast<uint64_t>(status.st_size);
  info.memory_alignment = info.logical_block_size;
  info.physical_block_size = 4096;
  info.volatile_cache = true;
  info.discard_granularity = static_cast<uint32_t>(status.st_blksize);
  info.max_discard_bytes = kMaxRangeBytes;
  info.max_write_zeroes_bytes = kMaxRangeBytes;
#ifdef STATX_DIOALIGN
  struct statx extended {};
  if (::statx(query.fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0) {
    if (extended.stx_dio_offset_align == 0) {
      return failed(
          "image {} is on a file system without direct I/O (O_DIRECT), move it to "
          "ext4, XFS or Btrfs",
          query.label);
    }
    info.memory_alignment = extended.stx_dio_mem_align;
    info.logical_block_size = std::max(512U, extended.stx_dio_offset_align);
  }
#endif
  // A hole behind the end of the file changes nothing, but is refused where none can be made.
  const bool can_discard =
      !query.read_only && ::fallocate(query.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                      (status.st_size / 4096 + 1) * 4096, 4096) == 0;
  if (!can_discard) info.max_discard_bytes = 0;
  return {};
}

Result<> check(const FileFactsQuery& query, const BlockInfo& info) {
  const uint32_t block = info.logical_block_size;
  if (block != 512 && block != 4096) {
    return failed("{} has blocks of {} bytes, only 512 and 4096 are supported", query.label, block);
  }
  if (info.size_bytes == 0) return failed("{} is empty", query.label);
  if (info.size_bytes % block != 0) {
    return failed("{} has {} bytes, which is not a multiple of its block size {}", query.label,
                  info.size_bytes, block);
  }
  return {};
}

}  // namespace

Result<uint64_t> file_size_bytes(int fd, const std::string& label) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return os_error(errno, "{} cannot be examined", label);
  if (!S_ISBLK(status.st_mode)) return static_cast<uint64_t>(status.st_size);
  uint64_t size_bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &size_bytes) != 0) {
    return os_error(errno, "block device {} does not tell its size", label);
  }
  return size_bytes;
}

Result<FileFacts> find_file_facts(const FileFactsQuery& query) {
  struct stat status {};
  if (::fstat(query.fd, &status) != 0) return os_error(errno, "{} cannot be examined", query.label);
  FileFacts facts;
  BlockInfo& info = facts.info;
  info.read_only = query.read_only;
  facts.block_device = S_ISBLK(status.st_mode);
  if (facts.block_device) {
    TRY(read_device(query, status, info));
  } else if (S_ISREG(status.st_mode)) {
    TRY(read_image(query, status, info));
    if (dsync_flushes(query, status)) facts.shared_flush_depth = kSharedFlushDepth;
  } else {
    return failed("{} is neither a file nor a block device", query.label);
  }
  TRY(check(query, info));
  if (!query.discard || query.read_only) info.max_discard_bytes = 0;
  if (query.read_only) info.max_write_zeroes_bytes = 0;
  info.memory_alignment = std::bit_ceil(std::max(info.memory_alignment, 1U));
  info.physical_block_size = std::max(info.physical_block_size, info.logical_block_size);
  return facts;
}

}  // namespace plumb
