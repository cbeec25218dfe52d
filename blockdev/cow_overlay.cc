#include "blockdev/cow_overlay.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "blockdev/file_facts.h"
#include "blockdev/file_lock.h"

namespace plumb {
namespace {

Result<CowPage> read_page(CowFile& file, uint64_t at) {
  CowPage page;
  TRY(file.read(at, page));
  return page;
}

Result<> write_page(CowFile& file, uint64_t at, const CowPage& page) {
  TRY(file.write(at, page));
  return file.sync();
}

Result<> write_state(CowFile& file, const CowState& state) {
  return write_page(file, kCowStateAt, print_cow_state(state));
}

int64_t nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

Error broken(const std::string& label, const CowOverlay& overlay) {
  return failed("snapshot {} ({}) is broken: {}", overlay.header.uuid, label, overlay.state.reason);
}

// Copies what `into` misses of the grains of one page of the table, then says so in its table.
Result<> merge_page(CowFile& from_file, const CowOverlay& from, CowFile& into_file,
                    CowOverlay& into, uint64_t page) {
  const uint64_t grain_bytes = into.header.grain_bytes;
  std::vector<std::byte> grain(grain_bytes);
  const uint64_t end = std::min((page + 1) * kCowGrainsPerPage, into.table.grains());
  CowTable merged = into.table;
  for (uint64_t at = page * kCowGrainsPerPage; at < end; ++at) {
    if (!from.table.has(at) || into.table.has(at)) continue;
    TRY(from_file.read(cow_data_at(from.header) + at * grain_bytes, grain));
    TRY(into_file.write(cow_data_at(into.header) + at * grain_bytes, grain));
    merged.add(at);
  }
  if (merged.kept() == into.table.kept()) return {};
  TRY(into_file.sync());
  TRY(into_file.write(kCowTableAt + page * kCowPageBytes, merged.page(page)));
  TRY(into_file.sync());
  into.table = std::move(merged);
  return {};
}

Result<> check_unused(CowFile& file) {
  const bool used = TRY(file.has_writer());
  if (!used) return {};
  return make_error(ErrorKind::kLocked, "{} is in use by a VM", file.label());
}

Result<> check_mergeable(CowFile& from_file, const CowOverlay& from, CowFile& into_file,
                         const CowOverlay& into) {
  if (from.header.disk != into.header.disk || from.header.grain_bytes != into.header.grain_bytes ||
      from.header.base_bytes < into.header.base_bytes) {
    return failed("{} and {} are no snapshots of one disk", from_file.label(), into_file.label());
  }
  if (from.older != into.header.uuid) {
    return failed("snapshot {} is not the one that follows {}", from_file.label(),
                  into_file.label());
  }
  TRY(check_unused(from_file));
  return check_unused(into_file);
}

}  // namespace

Result<> format_cow_overlay(CowFile& file, const CowHeader& header, const std::string& older) {
  const CowTable table(cow_grains(header));
  // Zeroes that are written: a write to a hole costs more, later, before a guest's write.
  for (uint64_t i = 0; i < table.pages(); ++i) {
    TRY(file.write(kCowTableAt + i * kCowPageBytes, table.page(i)));
  }
  TRY(file.write(kCowLinkAt, print_cow_link({.uuid = header.uuid, .older = older})));
  TRY(file.write(kCowStateAt, print_cow_state({.uuid = header.uuid, .opens = 1})));
  TRY(file.sync());
  return write_page(file, kCowHeaderAt, print_cow_header(header));
}

Result<UniqueFd> create_cow_overlay(const std::string& path, const CowHeader& header,
                                    const std::string& older) {
  const std::string parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? std::string(1, '.') : parent;
  // Without a name until it is whole: what ends us early leaves nothing behind.
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd) return os_error(errno, "overlay {} cannot be made in {}", path, folder);
  TRY(lock_file(fd.get(), "overlay " + path, true));
  if (::ftruncate(fd.get(), static_cast<off_t>(cow_file_bytes(header))) != 0) {
    return os_error(errno, "overlay {} cannot have {} bytes", path, cow_file_bytes(header));
  }
  const std::unique_ptr<CowFdFile> file = TRY(CowFdFile::open(std::move(fd), "overlay " + path));
  TRY(format_cow_overlay(*file, header, older));
  // Its size, too.
  if (::fsync(file->fd()) != 0) return os_error(errno, "overlay {} cannot be written", path);
  const std::string source = fmt::format("/proc/self/fd/{}", file->fd());
  if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return os_error(errno, "overlay {} cannot be named so", path);
  }
  const UniqueFd directory = TRY(open_file("folder", folder, O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return os_error(errno, "folder {} cannot be written", folder);
  return std::move(*file).take();
}

Result<CowOverlay> load_cow_overlay(CowFile& file) {
  const std::string& label = file.label();
  CowOverlay overlay;
  overlay.header = TRY(parse_cow_header(TRY(read_page(file, kCowHeaderAt)), label));
  const std::string& uuid = overlay.header.uuid;
  overlay.older = TRY(parse_cow_link(TRY(read_page(file, kCowLinkAt)), uuid, label)).older;
  overlay.state = TRY(parse_cow_state(TRY(read_page(file, kCowStateAt)), uuid, label));
  overlay.table = CowTable(cow_grains(overlay.header));
  for (uint64_t i = 0; i < overlay.table.pages(); ++i) {
    const CowPage page = TRY(read_page(file, kCowTableAt + i * kCowPageBytes));
    TRY(overlay.table.load(i, page, label));
  }
  return overlay;
}

Result<CowBaseStamp> stamp_cow_base(int fd, const std::string& label) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return os_error(errno, "{} cannot be examined", label);
  CowBaseStamp stamp;
  stamp.size_bytes = TRY(file_size_bytes(fd, label));
  stamp.file = S_ISREG(status.st_mode);
  if (!stamp.file) return stamp;
  if (::fsync(fd) != 0 || ::fstat(fd, &status) != 0) {
    return os_error(errno, "{} cannot be written", label);
  }
  stamp.mtime_ns = nanoseconds(status.st_mtim);
  stamp.ctime_ns = nanoseconds(status.st_ctim);
  return stamp;
}

Result<> check_cow_base(const CowOverlay& overlay, const CowBaseStamp& now) {
  const CowState& state = overlay.state;
  if (state.condition != CowCondition::kClean) return {};
  const bool same =
      state.base.file ? state.base == now : !now.file && state.base.size_bytes <= now.size_bytes;
  if (same) return {};
  return failed(
      "{} was changed since the VM that kept snapshot {} of it ended, so that the snapshot is not "
      "whole; delete it",
      overlay.header.disk, overlay.header.uuid);
}

Result<CowOverlay> open_cow_overlay(CowFile& file, const std::string& disk,
                                    const CowBaseStamp& now) {
  CowOverlay overlay = TRY(load_cow_overlay(file));
  if (overlay.header.disk != disk) {
    return failed("{} is a snapshot of {}, not of {}", file.label(), overlay.header.disk, disk);
  }
  if (overlay.header.base_bytes > now.size_bytes) {
    return failed("{} is a snapshot of a disk of {} bytes, and {} has {}", file.label(),
                  overlay.header.base_bytes, disk, now.size_bytes);
  }
  CowState& state = overlay.state;
  if (state.condition == CowCondition::kBroken) return broken(file.label(), overlay);
  TRY(check_cow_base(overlay, now));
  state = {.uuid = state.uuid, .condition = CowCondition::kOpen, .opens = state.opens + 1};
  TRY(write_state(file, state));
  return overlay;
}

Result<> leave_cow_overlay(CowFile& file, CowCondition condition, const CowBaseStamp& now) {
  CowState state = TRY(load_cow_overlay(file)).state;
  state.condition = condition;
  state.base = now;
  return write_state(file, state);
}

Result<> break_cow_overlay(CowFile& file, const std::string& reason) {
  CowOverlay overlay = TRY(load_cow_overlay(file));
  if (overlay.state.condition == CowCondition::kBroken) return {};
  overlay.state.condition = CowCondition::kBroken;
  overlay.state.reason = reason;
  return write_state(file, overlay.state);
}

Result<> disown_cow_overlay(int fd, const std::string& label) {
  struct flock lock {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd, F_OFD_SETLK, &lock) != 0) {
    return os_error(errno, "{} cannot be unlocked", label);
  }
  return {};
}

Result<> merge_cow_overlay(CowFile& from_file, CowFile& into_file) {
  const CowOverlay from = TRY(load_cow_overlay(from_file));
  CowOverlay into = TRY(load_cow_overlay(into_file));
  TRY(check_mergeable(from_file, from, into_file, into));
  if (into.state.condition == CowCondition::kBroken) return {};  // and stays so
  if (from.state.condition == CowCondition::kBroken) {
    return break_cow_overlay(into_file, from.state.reason);
  }
  for (uint64_t page = 0; page < into.table.pages(); ++page) {
    TRY(merge_page(from_file, from, into_file, into, page));
  }
  if (from.state.condition == CowCondition::kSealed) return {};
  CowState state = from.state;
  state.uuid = into.header.uuid;
  state.opens = std::max(from.state.opens, into.state.opens) + 1;
  TRY(write_state(into_file, state));
  // A reader that has both must not take `from` for the newest any more.
  state = from.state;
  state.condition = CowCondition::kSealed;
  return write_state(from_file, state);
}

Result<> relink_cow_overlay(CowFile& file, const std::string& older) {
  const CowOverlay overlay = TRY(load_cow_overlay(file));
  if (overlay.older == older) return {};
  return write_page(file, kCowLinkAt,
                    print_cow_link({.uuid = overlay.header.uuid, .older = older}));
}

}  // namespace plumb
