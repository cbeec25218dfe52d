#include "snapshot/overlay_array.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/file.h"
#include "blockdev/file_facts.h"
#include "blockdev/file_lock.h"
#include "blockdev/image_file.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"
#include "snapshot/arrays/array_names.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOf = " of ";
constexpr std::string_view kImage = ".img";
constexpr std::string_view kFrozen = ".frozen";    // an image under its name as a snapshot
constexpr std::string_view kPartial = ".partial";  // an image that is being written
constexpr size_t kPieceBytes = 1U << 20U;
constexpr size_t kHoleBytes = 64U << 10U;

struct SnapshotName {
  std::string name;
  std::string disk;
};

Result<SnapshotName> parse_snapshot_id(const std::string& id) {
  const size_t at = id.find(kOf);
  if (at != std::string::npos && is_array_name(id.substr(0, at))) {
    return SnapshotName{id.substr(0, at), id.substr(at + kOf.size())};
  }
  return failed("'{}' is no snapshot kept by copy-before-write", id);
}

// The disk itself, for reading beside the VM that has it.
Result<UniqueFd> open_disk(const std::string& disk) {
  if (disk.starts_with('/')) return open_file("image", disk, O_RDONLY);
  const LunResolver resolver;
  const LunId id = TRY(LunId::parse(disk));
  return open_file("LUN", resolver.device_path(TRY(resolver.resolve(id))), O_RDONLY);
}

// The disk itself, for writing, which nobody else may have.
Result<UniqueFd> take_disk(const std::string& disk) {
  if (disk.starts_with('/')) return open_image_file({.path = disk});
  const LunResolver resolver;
  // The VM that has used it was allowed to, by whatever identity.
  return std::move(
      TRY(claim_lun(resolver, TRY(LunId::parse(disk)), {.allow_weak_identity = true})).fd);
}

bool is_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

// What is zero stays a hole.
Result<> write_sparse(int fd, uint64_t offset, std::span<const std::byte> piece,
                      const std::string& label) {
  for (; !piece.empty(); piece = piece.subspan(std::min(piece.size(), kHoleBytes))) {
    const auto part = piece.first(std::min(piece.size(), kHoleBytes));
    const auto at = static_cast<off_t>(offset);
    offset += part.size();
    if (is_zero(part)) continue;
    const ssize_t written = ::pwrite(fd, part.data(), part.size(), at);
    if (written != static_cast<ssize_t>(part.size())) {
      return os_error(written < 0 ? errno : EIO, "{} cannot be written", label);
    }
  }
  return {};
}

// `read`: fills a span from an offset.
template <typename Read>
Result<> copy_sparse(int fd, uint64_t size_bytes, const std::string& label, Read read) {
  std::vector<std::byte> piece(kPieceBytes);
  for (uint64_t at = 0; at < size_bytes; at += kPieceBytes) {
    const std::span<std::byte> part(piece.data(), std::min<uint64_t>(kPieceBytes, size_bytes - at));
    TRY(read(at, part));
    TRY(write_sparse(fd, at, part, label));
  }
  return {};
}

Result<> remove_image(const std::string& path) {
  const UniqueFd image(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!image) return {};
  TRY(check_unlocked(image.get(), "image " + path));
  if (::unlink(path.c_str()) != 0) return os_error(errno, "image {} cannot be removed", path);
  return sync_folder_of(path);
}

}  // namespace

class OverlayArray::Prepared final : public PreparedSnapshot {
 public:
  explicit Prepared(OverlayArray& array) : array_(array) {}
  ~Prepared() override {
    if (finished_) return;
    taken_.clear();
    changes_.clear();
    for (const ArraySnapshot& one : snapshots_) static_cast<void>(array_.remove(one.id));
  }

  Result<> add(const SnapshotRequest& request) {
    ArraySnapshot& snapshot = snapshots_.emplace_back();
    snapshot.name = request.name;
    snapshot.volume_id = request.volume.id;
    snapshot.size_bytes = request.volume.size_bytes;
    if (request.volume.id.starts_with(array_.volumes())) return freeze_image(snapshot);
    snapshot.id = fmt::format("{}{}{}", request.name, kOf, request.volume.id);
    OverlayStore::Changes changes = TRY(array_.store_.change(request.volume.id));
    UniqueFd overlay = TRY(changes.add(request.name, request.volume.size_bytes));
    changes_.push_back(std::move(changes));
    taken_.push_back({request.volume.id, std::move(overlay)});
    return {};
  }

  Result<> take() override { return taken_.empty() ? Result<>() : array_.vms_.keep(taken_); }

  Result<std::vector<ArraySnapshot>> finish() override {
    finished_ = true;
    taken_.clear();  // the VMs have them
    for (OverlayStore::Changes& changes : changes_) {
      // What older snapshots have left is in nobody's way.
      static_cast<void>(
          changes.tidy([](const std::string&) -> Result<> { return failed("in use"); }));
    }
    changes_.clear();
    return snapshots_;
  }

 private:
  Result<> freeze_image(ArraySnapshot& snapshot) {
    snapshot.id = fmt::format("{}{}{}", array_.volumes(), snapshot.name, kFrozen);
    if (::chmod(snapshot.volume_id.c_str(), 0400) != 0 ||
        ::link(snapshot.volume_id.c_str(), snapshot.id.c_str()) != 0) {
      return os_error(errno, "image {} cannot be kept as {}", snapshot.volume_id, snapshot.id);
    }
    return sync_folder_of(snapshot.id);
  }

  OverlayArray& array_;
  std::vector<ArraySnapshot> snapshots_;
  std::vector<OverlayStore::Changes> changes_;  // locks
  std::vector<Kept> taken_;
  bool finished_ = false;
};

Result<std::optional<ArrayVolume>> OverlayArray::find(const DiskMedium& medium) {
  const std::string& disk = medium.image.empty() ? medium.wwn : medium.image;
  if (disk.empty()) return std::optional<ArrayVolume>();
  return std::optional(ArrayVolume{disk, disk, medium.size_bytes, true});
}

Result<std::unique_ptr<PreparedSnapshot>> OverlayArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name_, requests));
  auto prepared = std::make_unique<Prepared>(*this);
  for (const SnapshotRequest& request : requests) {
    TRY(check_array_name(name_, request.name));
    TRY(prepared->add(request));
  }
  return std::unique_ptr<PreparedSnapshot>(std::move(prepared));
}

Result<UniqueFd> OverlayArray::make_image(const std::string& name, uint64_t size_bytes) const {
  TRY(check_array_name(name_, name));
  TRY(make_folders(volumes(), 0700));
  if (fs::exists(fmt::format("{}{}{}", volumes(), name, kImage))) return name_taken(name_, name);
  const std::string path = fmt::format("{}{}{}", volumes(), name, kPartial);
  UniqueFd fd = TRY(open_file("image", path, O_RDWR | O_CREAT | O_EXCL));
  if (::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return os_error(errno, "image {} cannot have {} bytes", path, size_bytes);
  }
  return fd;
}

Result<ArrayVolume> OverlayArray::finish_image(const std::string& name, int fd,
                                               uint64_t size_bytes) const {
  const std::string partial = fmt::format("{}{}{}", volumes(), name, kPartial);
  const std::string path = fmt::format("{}{}{}", volumes(), name, kImage);
  if (::fsync(fd) != 0 || ::rename(partial.c_str(), path.c_str()) != 0) {
    return os_error(errno, "image {} cannot be made durable", path);
  }
  TRY(sync_folder_of(path));
  return ArrayVolume{path, name, size_bytes, true};
}

Result<std::unique_ptr<CowReader>> OverlayArray::read(const std::string& snapshot_id) const {
  const SnapshotName snapshot = TRY(parse_snapshot_id(snapshot_id));
  UniqueFd disk = TRY(open_disk(snapshot.disk));
  return store_.read(snapshot.disk, snapshot.name, std::move(disk));
}

Result<ArrayVolume> OverlayArray::clone(const std::string& snapshot_id, const std::string& name) {
  if (snapshot_id.starts_with(volumes())) {
    const UniqueFd from = TRY(open_file("image", snapshot_id, O_RDONLY));
    const uint64_t size_bytes = TRY(file_size_bytes(from.get(), snapshot_id));
    const UniqueFd image = TRY(make_image(name, size_bytes));
    TRY(copy_sparse(
        image.get(), size_bytes, name, [&](uint64_t at, std::span<std::byte> to) -> Result<> {
          const ssize_t got = ::pread(from.get(), to.data(), to.size(), static_cast<off_t>(at));
          if (got == static_cast<ssize_t>(to.size())) return {};
          return os_error(got < 0 ? errno : EIO, "{} cannot be read", snapshot_id);
        }));
    return finish_image(name, image.get(), size_bytes);
  }
  const auto reader = TRY(read(snapshot_id));
  const UniqueFd image = TRY(make_image(name, reader->size_bytes()));
  TRY(copy_sparse(image.get(), reader->size_bytes(), name,
                  [&](uint64_t at, std::span<std::byte> to) { return reader->read(at, to); }));
  return finish_image(name, image.get(), reader->size_bytes());
}

Result<ArrayVolume> OverlayArray::create(const std::string& name, uint64_t size_bytes) {
  const UniqueFd image = TRY(make_image(name, size_bytes));
  return finish_image(name, image.get(), size_bytes);
}

Result<> OverlayArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const SnapshotName snapshot = TRY(parse_snapshot_id(snapshot_id));
  if (snapshot.disk != volume_id) {
    return failed("{} is no snapshot of {}", snapshot_id, volume_id);
  }
  UniqueFd disk = TRY(take_disk(volume_id));
  const OverlayStore::Changes nobody_deletes = TRY(store_.change(volume_id));
  return store_.restore(volume_id, snapshot.name, std::move(disk));
}

Result<MappedVolume> OverlayArray::map(const std::string& id) {
  if (id.starts_with(volumes()) && fs::exists(id)) return MappedVolume{"", id};
  return failed(
      "snapshot {} is kept by copy-before-write, and has no path of its own: serve it with `plumb "
      "nbd serve`, or make a template of it, which is a copy",
      id);
}

Result<> OverlayArray::unmap(const std::string&) { return {}; }

Result<> OverlayArray::remove(const std::string& id) {
  if (id.starts_with(volumes())) {
    TRY(remove_image(id));
    const std::string stem = id.substr(0, id.size() - std::min(id.size(), kImage.size()));
    return id.ends_with(kImage) ? remove_image(stem + std::string(kPartial)) : Result<>();
  }
  const SnapshotName snapshot = TRY(parse_snapshot_id(id));
  OverlayStore::Changes changes = TRY(store_.change(snapshot.disk));
  return changes.remove(snapshot.name,
                        [&](const std::string& uuid) { return vms_.let_go(snapshot.disk, uuid); });
}

Result<> OverlayArray::keep_at_rest(const Kept& kept, int disk_fd) const {
  UniqueFd overlay(::fcntl(kept.overlay.get(), F_DUPFD_CLOEXEC, 0));
  if (!overlay) return os_error(errno, "the overlay of {} cannot be used", kept.disk);
  return store_.keep_at_rest(kept.disk, disk_fd, std::move(overlay));
}

Result<> OverlayArray::tidy() {
  std::set<std::string> disks;
  for (const OverlayStore::Overlay& one : TRY(store_.all())) {
    if (one.deleted) disks.insert(one.header.disk);
  }
  for (const std::string& disk : disks) {
    OverlayStore::Changes changes = TRY(store_.change(disk));
    TRY(changes.tidy([&](const std::string& uuid) { return vms_.let_go(disk, uuid); }));
  }
  return {};
}

// `T` is a volume or a snapshot.
template <typename T>
Result<std::vector<T>> OverlayArray::list_images(const std::string& prefix,
                                                 std::string_view ending) const {
  std::vector<T> all;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(volumes(), error)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != ending || !name.starts_with(prefix)) continue;
    T& one = all.emplace_back();
    one.name = name;
    one.size_bytes = fs::file_size(entry.path(), error);
    one.whole = ending != kPartial;
    one.id = fmt::format("{}{}{}", volumes(), name, ending == kPartial ? kImage : ending);
  }
  return all;
}

Result<std::vector<ArraySnapshot>> OverlayArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> all = TRY(list_images<ArraySnapshot>(prefix, kFrozen));
  for (const OverlayStore::Overlay& one : TRY(store_.all())) {
    if (one.deleted || !one.name.starts_with(prefix)) continue;
    all.push_back({fmt::format("{}{}{}", one.name, kOf, one.header.disk), one.name, one.header.disk,
                   one.header.base_bytes, one.state.condition != CowCondition::kBroken});
  }
  return all;
}

Result<std::vector<ArrayVolume>> OverlayArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> all = TRY(list_images<ArrayVolume>(prefix, kImage));
  std::ranges::move(TRY(list_images<ArrayVolume>(prefix, kPartial)), std::back_inserter(all));
  return all;
}

Result<ArrayCapacity> OverlayArray::capacity() {
  struct statvfs space {};
  if (::statvfs(store_.folder().c_str(), &space) != 0) {
    return os_error(errno, "folder {} cannot be examined", store_.folder());
  }
  return ArrayCapacity{uint64_t{space.f_blocks} * space.f_frsize,
                       uint64_t{space.f_bavail} * space.f_frsize};
}

Result<> OverlayArray::health() {
  TRY(capacity());
  return {};
}

}  // namespace plumb
