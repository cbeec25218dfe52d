#include "snapshot/arrays/reflink.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "base/size.h"
#include "blockdev/file_lock.h"
#include "snapshot/arrays/array_names.h"

namespace plumb {
namespace {

constexpr std::string_view kSnapshots = ".plumb-snapshots/";
constexpr std::string_view kPartial = ".partial";
constexpr std::string_view kRestoring = ".restoring";
constexpr std::string_view kImage = ".img";
constexpr const char* kVolumeAttribute = "user.plumb.volume";  // of a snapshot: its volume's path
constexpr const char* kMadeAttribute = "user.plumb.made";      // of a volume made here: its name
constexpr uint64_t kSizeGranule = 4096;
constexpr mode_t kImageMode = 0600;
constexpr mode_t kSnapshotMode = 0400;

std::string partial_path(std::string_view name) {
  return fmt::format("{}{}{}", kSnapshots, name, kPartial);
}
std::string snapshot_path(std::string_view name) { return fmt::format("{}{}", kSnapshots, name); }
std::string volume_path(std::string_view name) { return fmt::format("{}{}", name, kImage); }

std::string attribute(int fd, const char* name) {
  std::array<char, 4096> value;
  const ssize_t size = ::fgetxattr(fd, name, value.data(), value.size());
  return size > 0 ? std::string(value.data(), static_cast<size_t>(size)) : std::string();
}

// A folder that is worked in by paths relative to it, of which none leaves it.
class Folder {
 public:
  Folder(std::string array, std::string path, UniqueFd fd)
      : array_(std::move(array)), path_(std::move(path)), fd_(std::move(fd)) {}

  const std::string& array() const { return array_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  std::string full(std::string_view relative) const {
    return fmt::format("{}/{}", path_, relative);
  }

  // The error of a system call on a file in here.
  Error error(std::string_view action, std::string_view relative) const {
    return os_error(errno, "array {}: {} cannot be {}", array_, full(relative), action);
  }

  UniqueFd try_open(const std::string& relative, int flags, mode_t mode = 0) const {
    open_how how{};
    how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    return UniqueFd(
        static_cast<int>(::syscall(SYS_openat2, fd_.get(), relative.c_str(), &how, sizeof(how))));
  }

  Result<UniqueFd> open_regular(const std::string& relative, int flags) const {
    UniqueFd file = try_open(relative, flags);
    if (!file) return error("opened", relative);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return error("examined", relative);
    if (S_ISREG(status.st_mode)) return file;
    return failed("array {}: {} is no regular file, and so no image", array_, full(relative));
  }

  bool exists(const std::string& relative) const {
    struct stat status {};
    return ::fstatat(fd_.get(), relative.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  }

  Result<> remove(const std::string& relative) const {
    if (::unlinkat(fd_.get(), relative.c_str(), 0) == 0 || errno == ENOENT) return {};
    return error("removed", relative);
  }

  // `from` gets the name `to`, which is not taken from another file unless `replace`; durable.
  Result<> rename(const std::string& from, const std::string& to, bool replace = false) const {
    const unsigned flags = replace ? 0 : RENAME_NOREPLACE;
    if (::renameat2(fd_.get(), from.c_str(), fd_.get(), to.c_str(), flags) != 0) {
      return error("renamed to " + full(to), from);
    }
    Result<> synced = sync(std::string(kSnapshots));
    if (synced) synced = sync(std::filesystem::path(to).parent_path().string());
    // What is not durable is not there; what was replaced cannot be brought back.
    if (!synced && !replace) TRY(remove(to));
    return synced;
  }

  // The entries of a folder are durable.
  Result<> sync(const std::string& relative) const {
    const std::string at = relative.empty() ? "." : relative;
    const UniqueFd folder = try_open(at, O_RDONLY | O_DIRECTORY);
    if (!folder || ::fsync(folder.get()) != 0) return error("made durable", at);
    return {};
  }

  Result<> clone(int to, int from, std::string_view what) const {
    if (::ioctl(to, FICLONE, from) == 0) return {};
    if (errno != EOPNOTSUPP && errno != ENOTTY) return error("cloned", what);
    return failed(
        "array {}: the file system of {} has no reflinks; keep the images on XFS (mkfs.xfs -m "
        "reflink=1) or Btrfs, or back this VM up without an array",
        array_, full(what));
  }

 private:
  std::string array_;
  std::string path_;
  UniqueFd fd_;
};

// A file of its own name, not yet of its final one; removed unless it was kept.
class PartialFile {
 public:
  // `like`: the image whose blocks it will share, or -1. Btrfs shares none between a file without
  // copy-on-write and one with it.
  static Result<PartialFile> make(const Folder& folder, const std::string& name, int like) {
    const bool taken = folder.exists(snapshot_path(name)) || folder.exists(volume_path(name));
    if (taken) return name_taken(folder.array(), name);
    if (::mkdirat(folder.fd(), std::string(kSnapshots).c_str(), 0700) != 0 && errno != EEXIST) {
      return folder.error("made", kSnapshots);
    }
    const std::string path = partial_path(name);
    UniqueFd fd = folder.try_open(path, O_RDWR | O_CREAT | O_EXCL, kImageMode);
    if (!fd && errno == EEXIST) return name_taken(folder.array(), name);
    if (!fd) return folder.error("made", path);
    PartialFile file(folder, name, std::move(fd));
    int flags = 0;
    if (like >= 0 && ::ioctl(like, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_NOCOW_FL) != 0) {
      if (::ioctl(file.fd(), FS_IOC_SETFLAGS, &flags) != 0) return folder.error("made", path);
    }
    return file;
  }

  PartialFile(PartialFile&& other) noexcept
      : folder_(other.folder_), name_(other.name_), fd_(std::move(other.fd_)) {}
  PartialFile& operator=(PartialFile&&) = delete;
  ~PartialFile() {
    if (fd_) static_cast<void>(folder_.remove(partial_path(name_)).ok());
  }

  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }

  Result<> mark(const char* attribute, const std::string& value) {
    if (::fsetxattr(fd(), attribute, value.data(), value.size(), 0) == 0) return {};
    return folder_.error("given an extended attribute", partial_path(name_));
  }

  // Durable, and with its final name; returns its size.
  Result<uint64_t> keep(const std::string& final_path, mode_t mode) {
    struct stat status {};
    if (::fchmod(fd(), mode) != 0 || ::fsync(fd()) != 0 || ::fstat(fd(), &status) != 0) {
      return folder_.error("made durable", partial_path(name_));
    }
    TRY(folder_.rename(partial_path(name_), final_path));
    fd_.reset();
    return static_cast<uint64_t>(status.st_size);
  }

 private:
  PartialFile(const Folder& folder, std::string name, UniqueFd fd)
      : folder_(folder), name_(std::move(name)), fd_(std::move(fd)) {}

  const Folder& folder_;
  const std::string name_;
  UniqueFd fd_;
};

class PreparedReflinks final : public PreparedSnapshot {
 public:
  struct Image {
    UniqueFd fd;
    std::string path;  // relative
    PartialFile file;
  };

  PreparedReflinks(const Folder& folder, std::vector<Image> images)
      : folder_(folder), images_(std::move(images)) {}
  ~PreparedReflinks() override {
    for (const std::string& name : kept_) {
      static_cast<void>(folder_.remove(snapshot_path(name)).ok());
    }
  }

  Result<> take() override {
    for (Image& image : images_) TRY(folder_.clone(image.file.fd(), image.fd.get(), image.path));
    return {};
  }

  Result<std::vector<ArraySnapshot>> finish() override {
    std::vector<ArraySnapshot> made;
    for (Image& image : images_) {
      const std::string path = snapshot_path(image.file.name());
      const uint64_t size = TRY(image.file.keep(path, kSnapshotMode));
      kept_.push_back(image.file.name());
      made.push_back({folder_.full(path), image.file.name(), folder_.full(image.path), size, true});
    }
    kept_.clear();
    return made;
  }

 private:
  const Folder& folder_;
  std::vector<Image> images_;
  std::vector<std::string> kept_;  // by a finish() that has not ended well
};

class ReflinkArray final : public ArrayProvider {
 public:
  explicit ReflinkArray(Folder folder) : folder_(std::move(folder)) {}

  const std::string& name() const override { return folder_.array(); }
  Abilities abilities() const override { return {.provisions = true, .claims = true}; }

  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override;
  Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) override;
  Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) override;
  Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) override;
  Result<> restore(const std::string& snapshot_id, const std::string& volume_id) override;
  Result<MappedVolume> map(const std::string& id) override;
  Result<> unmap(const std::string& id) override;
  Result<> remove(const std::string& id) override;
  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override;
  Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) override;
  Result<ArrayCapacity> capacity() override;
  Result<> health() override;

 private:
  // Of an id, the path in the folder.
  Result<std::string> relative_of(const std::string& id) const;
  // The name of a whole snapshot.
  Result<std::string> snapshot_name(const std::string& id) const;
  Result<> remove_volume(const std::string& relative);
  template <typename Visit>
  Result<> each_file(const std::string& relative, std::string_view suffix, Visit visit) const;

  const Folder folder_;
};

bool is_snapshot(std::string_view relative) { return relative.starts_with(kSnapshots); }

Result<std::string> ReflinkArray::relative_of(const std::string& id) const {
  if (id.starts_with(folder_.path() + "/") && id.size() > folder_.path().size() + 1) {
    return id.substr(folder_.path().size() + 1);
  }
  return failed("array {}: {} is not in {}", name(), id, folder_.path());
}

Result<std::string> ReflinkArray::snapshot_name(const std::string& id) const {
  const std::string relative = TRY(relative_of(id));
  const std::string name = is_snapshot(relative) ? relative.substr(kSnapshots.size()) : "";
  if (is_array_name(name)) return name;
  return failed("array {}: {} is no snapshot that is whole", folder_.array(), id);
}

Result<std::optional<ArrayVolume>> ReflinkArray::find(const DiskMedium& medium) {
  if (medium.image.empty()) return std::optional<ArrayVolume>();
  // An image may be named through a symbolic link; its volume is the file itself.
  std::error_code error;
  const std::string path = std::filesystem::canonical(medium.image, error).string();
  if (error) {
    if (!medium.image.starts_with(folder_.path() + "/")) return std::optional<ArrayVolume>();
    return os_error(error.value(), "array {}: image {} cannot be found", name(), medium.image);
  }
  if (!path.starts_with(folder_.path() + "/")) return std::optional<ArrayVolume>();
  const std::string relative = TRY(relative_of(path));
  if (is_snapshot(relative)) return std::optional<ArrayVolume>();
  const UniqueFd image = TRY(folder_.open_regular(relative, O_RDONLY));
  struct stat status {};
  if (::fstat(image.get(), &status) != 0) return folder_.error("examined", relative);
  return std::optional<ArrayVolume>({path, std::filesystem::path(path).filename().string(),
                                     static_cast<uint64_t>(status.st_size), true});
}

Result<std::unique_ptr<PreparedSnapshot>> ReflinkArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  TRY(health());
  std::vector<PreparedReflinks::Image> images;
  for (const SnapshotRequest& request : requests) {
    const std::string relative = TRY(relative_of(request.volume.id));
    UniqueFd image = TRY(folder_.open_regular(relative, O_RDONLY));
    PartialFile file = TRY(PartialFile::make(folder_, request.name, image.get()));
    TRY(file.mark(kVolumeAttribute, relative));
    images.push_back({std::move(image), relative, std::move(file)});
  }
  return std::make_unique<PreparedReflinks>(folder_, std::move(images));
}

Result<ArrayVolume> ReflinkArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(folder_.array(), name));
  const std::string from = snapshot_path(TRY(snapshot_name(snapshot_id)));
  const UniqueFd snapshot = TRY(folder_.open_regular(from, O_RDONLY));
  PartialFile file = TRY(PartialFile::make(folder_, name, snapshot.get()));
  TRY(file.mark(kMadeAttribute, name));
  TRY(folder_.clone(file.fd(), snapshot.get(), from));
  const uint64_t size = TRY(file.keep(volume_path(name), kImageMode));
  return ArrayVolume{folder_.full(volume_path(name)), name, size, true};
}

Result<ArrayVolume> ReflinkArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(folder_.array(), name));
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return usage_error("array {}: a volume of {} bytes cannot be made; give a multiple of {}",
                       folder_.array(), size_bytes, kSizeGranule);
  }
  PartialFile file = TRY(PartialFile::make(folder_, name, -1));
  TRY(file.mark(kMadeAttribute, name));
  if (::ftruncate(file.fd(), static_cast<off_t>(size_bytes)) != 0) {
    return folder_.error(fmt::format("made {} large", format_size(size_bytes)), partial_path(name));
  }
  TRY(file.keep(volume_path(name), kImageMode));
  return ArrayVolume{folder_.full(volume_path(name)), name, size_bytes, true};
}

// A clone of the snapshot takes the image's place and name at once.
Result<> ReflinkArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const std::string snapshot = TRY(snapshot_name(snapshot_id));
  const std::string relative = TRY(relative_of(volume_id));
  const UniqueFd from = TRY(folder_.open_regular(snapshot_path(snapshot), O_RDONLY));
  if (attribute(from.get(), kVolumeAttribute) != relative) {
    return failed("array {}: {} is no snapshot of {}", name(), snapshot_id, volume_id);
  }
  const UniqueFd image = TRY(folder_.open_regular(relative, O_RDWR));
  TRY(lock_file(image.get(), fmt::format("array {}: image {}", name(), volume_id), true));
  // Another restore may have put a clone in its place meanwhile, which a VM may have by now.
  if (!is_still_at(image.get(), folder_.full(relative))) {
    return make_error(ErrorKind::kLocked, "array {}: image {} was just replaced; try again", name(),
                      volume_id);
  }
  const std::string path = snapshot_path(snapshot) + std::string(kRestoring);
  TRY(folder_.remove(path));
  const UniqueFd file = folder_.try_open(path, O_RDWR | O_CREAT | O_EXCL, kImageMode);
  struct stat status {};
  int flags = 0;
  if (!file || ::fstat(image.get(), &status) != 0) return folder_.error("made", path);
  if (::ioctl(from.get(), FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_NOCOW_FL) != 0) {
    if (::ioctl(file.get(), FS_IOC_SETFLAGS, &flags) != 0) return folder_.error("made", path);
  }
  TRY(folder_.clone(file.get(), from.get(), snapshot_path(snapshot)));
  const std::string made = attribute(image.get(), kMadeAttribute);
  const bool marked =
      made.empty() || ::fsetxattr(file.get(), kMadeAttribute, made.data(), made.size(), 0) == 0;
  if (!marked || ::fchown(file.get(), status.st_uid, status.st_gid) != 0 ||
      ::fchmod(file.get(), status.st_mode & 07777U) != 0 || ::fsync(file.get()) != 0) {
    return folder_.error("made like the image", path);
  }
  return folder_.rename(path, relative, true);
}

Result<MappedVolume> ReflinkArray::map(const std::string& id) {
  const std::string relative = TRY(relative_of(id));
  if (is_snapshot(relative)) TRY(snapshot_name(id));
  TRY(folder_.open_regular(relative, O_RDONLY));
  return MappedVolume{"", id};
}

// There is nothing to undo.
Result<> ReflinkArray::unmap(const std::string& id) {
  TRY(relative_of(id));
  return {};
}

Result<> ReflinkArray::remove(const std::string& id) {
  const std::string relative = TRY(relative_of(id));
  if (!is_snapshot(relative)) return remove_volume(relative);
  const std::string name = TRY(snapshot_name(id));
  // A VM may have it for reading.
  if (const UniqueFd file = folder_.try_open(relative, O_RDONLY)) {
    TRY(check_unlocked(file.get(), fmt::format("array {}: snapshot {}", this->name(), name)));
  }
  TRY(folder_.remove(snapshot_path(name) + std::string(kRestoring)));
  TRY(folder_.remove(partial_path(name)));
  return folder_.remove(snapshot_path(name));
}

Result<> ReflinkArray::remove_volume(const std::string& relative) {
  const std::string stem =
      relative.ends_with(kImage) ? relative.substr(0, relative.size() - kImage.size()) : "";
  const UniqueFd image = folder_.try_open(relative, O_RDONLY);
  if (image) {
    if (stem.empty() || attribute(image.get(), kMadeAttribute) != stem) {
      return failed("array {}: {} was not made here, and is not removed", name(),
                    folder_.full(relative));
    }
    TRY(check_unlocked(image.get(), fmt::format("array {}: image {}", name(), relative)));
  } else if (errno != ENOENT) {
    return folder_.error("opened", relative);
  }
  if (is_array_name(stem)) TRY(folder_.remove(partial_path(stem)));
  return folder_.remove(relative);
}

// Calls visit(name, fd) for each regular file of a folder whose name is an array's name and
// `suffix`.
template <typename Visit>
Result<> ReflinkArray::each_file(const std::string& relative, std::string_view suffix,
                                 Visit visit) const {
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder_.full(relative), error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string file = it->path().filename().string();
    if (!file.ends_with(suffix)) continue;
    const std::string name = file.substr(0, file.size() - suffix.size());
    const UniqueFd fd = folder_.try_open(relative + file, O_RDONLY);
    struct stat status {};
    if (!is_array_name(name) || !fd || ::fstat(fd.get(), &status) != 0) continue;
    if (S_ISREG(status.st_mode)) visit(name, fd.get(), static_cast<uint64_t>(status.st_size));
  }
  // The folder for snapshots is made with the first.
  if (!error || error.value() == ENOENT) return {};
  return os_error(error.value(), "array {}: {} cannot be read", name(), folder_.full(relative));
}

Result<std::vector<ArraySnapshot>> ReflinkArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> all;
  for (const bool whole : {true, false}) {
    TRY(each_file(std::string(kSnapshots), whole ? "" : kPartial,
                  [&](const std::string& name, int fd, uint64_t size) {
                    const std::string volume = attribute(fd, kVolumeAttribute);
                    if (!name.starts_with(prefix) || volume.empty()) return;
                    all.push_back({folder_.full(snapshot_path(name)), name, folder_.full(volume),
                                   size, whole});
                  }));
  }
  return all;
}

Result<std::vector<ArrayVolume>> ReflinkArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> all;
  TRY(each_file("", kImage, [&](const std::string& name, int fd, uint64_t size) {
    if (!name.starts_with(prefix) || attribute(fd, kMadeAttribute) != name) return;
    all.push_back({folder_.full(volume_path(name)), name, size, true});
  }));
  TRY(each_file(std::string(kSnapshots), kPartial,
                [&](const std::string& name, int fd, uint64_t size) {
                  // Without an attribute it is what a crash left of either kind.
                  if (!name.starts_with(prefix) || !attribute(fd, kVolumeAttribute).empty()) return;
                  all.push_back({folder_.full(volume_path(name)), name, size, false});
                }));
  return all;
}

Result<ArrayCapacity> ReflinkArray::capacity() {
  struct statvfs space {};
  if (::fstatvfs(folder_.fd(), &space) != 0) return folder_.error("examined", ".");
  return ArrayCapacity{uint64_t{space.f_blocks} * space.f_frsize,
                       uint64_t{space.f_bavail} * space.f_frsize};
}

// Two files without names share a block, or the reason why they cannot.
Result<> ReflinkArray::health() {
  const UniqueFd from = folder_.try_open(".", O_RDWR | O_TMPFILE, kImageMode);
  const UniqueFd to = folder_.try_open(".", O_RDWR | O_TMPFILE, kImageMode);
  if (!from || !to) return folder_.error("written to", ".");
  const std::array<char, kSizeGranule> block{};
  if (::pwrite(from.get(), block.data(), block.size(), 0) != ssize_t{kSizeGranule}) {
    return folder_.error("written to", ".");
  }
  return folder_.clone(to.get(), from.get(), ".");
}

}  // namespace

Result<std::unique_ptr<ArrayProvider>> open_reflink_array(const ReflinkConfig& config) {
  std::error_code error;
  const std::string path = std::filesystem::canonical(config.folder, error).string();
  if (error) {
    return os_error(error.value(), "array {}: folder {} cannot be used", config.name,
                    config.folder);
  }
  UniqueFd fd =
      TRY(open_file(fmt::format("array {}: folder", config.name), path, O_RDONLY | O_DIRECTORY));
  return std::make_unique<ReflinkArray>(Folder(config.name, path, std::move(fd)));
}

}  // namespace plumb
