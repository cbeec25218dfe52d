#include "snapshot/arrays/rbd.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/rbd_devices.h"
#include "snapshot/arrays/rbd_pool.h"

namespace plumb {
namespace {

constexpr std::string_view kNew = ".new";
constexpr std::string_view kGone = ".gone-";
constexpr std::string_view kLock = ".lock";  // a snapshot that only asks for an image's lock
constexpr std::string_view kHalf = "name:";  // before the name of an image that has no id yet
constexpr uint64_t kSizeGranule = 4096;
constexpr size_t kAtOnce = 16;  // programs

using Images = std::vector<RbdImage>;

// Does something for each number below `count`, several at a time; all are done before it returns
// the first error. Ceph gives out snapshots in rounds, of a second or so: one after the other each
// would wait for its own.
Result<> at_once(size_t count, const std::function<Result<>(size_t)>& work) {
  std::vector<Result<>> results(count);
  for (size_t begin = 0; begin < count; begin += kAtOnce) {
    std::vector<std::thread> threads;
    for (size_t i = begin; i < std::min(begin + kAtOnce, count); ++i) {
      threads.emplace_back([&work, &results, i] { results[i] = work(i); });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (Result<>& result : results) TRY(std::move(result));
  return {};
}

// What the name of an image or snapshot says that was made here.
struct MadeName {
  std::string name;  // "" when it was not
  bool whole = false;
  bool gone = false;
};

std::string made_as(const std::string& array, const std::string& name) {
  return "plumb." + array + "." + name;
}

MadeName read_made(const std::string& array, std::string_view text) {
  const std::string prefix = made_as(array, "");
  if (!text.starts_with(prefix)) return {};
  text.remove_prefix(prefix.size());
  const std::string_view name = text.substr(0, text.find('.'));
  const std::string_view rest = text.substr(name.size());
  if (!is_array_name(name)) return {};
  if (rest.empty() || rest == kNew) return {std::string(name), rest.empty(), false};
  if (rest.starts_with(kGone)) return {std::string(name), false, true};
  return {};
}

const RbdImage* with_id(const Images& all, const std::string& id) {
  const auto found = std::ranges::find(all, id, &RbdImage::id);
  return found == all.end() ? nullptr : &*found;
}

const RbdImage* with_name(const Images& all, const std::string& name) {
  const auto found = std::ranges::find(all, name, &RbdImage::name);
  return found == all.end() ? nullptr : &*found;
}

// A snapshot made here: the image that holds its name, and, once it is taken, itself.
struct MadeSnapshot {
  const RbdImage* holder = nullptr;
  const RbdImage* volume = nullptr;
  const RbdSnapshot* snapshot = nullptr;
  bool whole = false;
};

MadeSnapshot snapshot_of(const Images& all, const RbdImage& holder) {
  MadeSnapshot made{.holder = &holder};
  for (const RbdImage& volume : all) {
    for (const RbdSnapshot& snapshot : volume.snapshots) {
      const bool whole = snapshot.name == holder.name;
      if (!whole && snapshot.name != holder.name + std::string(kNew)) continue;
      made = {&holder, &volume, &snapshot, whole};
    }
  }
  return made;
}

class PreparedRbd final : public PreparedSnapshot {
 public:
  struct Part {
    std::string name;
    RbdImage volume;
    bool held = false;  // its name
  };

  PreparedRbd(const RbdPool& pool, std::vector<Part> parts)
      : pool_(pool), parts_(std::move(parts)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedRbd() override {
    if (done_) return;
    static_cast<void>(at_once(parts_.size(), [this](size_t i) { return drop(parts_[i]); }).ok());
  }

  // Before the guests are frozen: so the names are ours.
  Result<> hold_names() {
    return at_once(parts_.size(), [this](size_t i) -> Result<> {
      Part& part = parts_[i];
      Result<> created = pool_.create(as(part), 0);
      part.held = created.ok();
      if (!part.held && created.error().os_errno == EEXIST) {
        return name_taken(pool_.config().name, part.name);
      }
      return created;
    });
  }

  Result<> take() override {
    taken_ = true;
    return at_once(parts_.size(), [this](size_t i) {
      return pool_.create_snapshot(parts_[i].volume.name, as_new(parts_[i]));
    });
  }

  Result<std::vector<ArraySnapshot>> finish() override {
    TRY(at_once(parts_.size(), [this](size_t i) {
      return pool_.rename_snapshot(parts_[i].volume.name, as_new(parts_[i]), as(parts_[i]));
    }));
    const Images all = TRY(pool_.images());
    std::vector<ArraySnapshot> made;
    for (const Part& part : parts_) {
      const RbdImage* holder = with_name(all, as(part));
      const MadeSnapshot found = holder == nullptr ? MadeSnapshot() : snapshot_of(all, *holder);
      if (!found.whole) {
        return pool_.error(
            fmt::format("the snapshot {}@{} is not there", part.volume.name, as(part)));
      }
      made.push_back({holder->id, part.name, found.volume->id, found.snapshot->size_bytes, true});
    }
    done_ = true;
    return made;
  }

 private:
  std::string as(const Part& part) const { return made_as(pool_.config().name, part.name); }
  std::string as_new(const Part& part) const { return as(part) + std::string(kNew); }

  Result<> drop(const Part& part) const {
    if (!part.held) return {};
    if (taken_) {
      TRY(pool_.remove_snapshot(part.volume.name, as_new(part)));
      TRY(pool_.remove_snapshot(part.volume.name, as(part)));
    }
    return pool_.remove(as(part));
  }

  const RbdPool& pool_;
  std::vector<Part> parts_;
  bool taken_ = false;
  bool done_ = false;
};

class RbdArray final : public ArrayProvider {
 public:
  explicit RbdArray(const RbdConfig& config) : pool_(config) {}

  const std::string& name() const override { return pool_.config().name; }
  Abilities abilities() const override { return {.provisions = true}; }

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
  Result<ArrayCapacity> capacity() override { return pool_.capacity(); }
  Result<> health() override;

 private:
  MadeName made(const std::string& text) const { return read_made(name(), text); }
  bool holds_name(const RbdImage& image) const {
    return image.size_bytes == 0 && made(image.name).whole;
  }
  // Errors: there is none with the id, or it is not whole.
  Result<RbdImage> volume(const Images& all, const std::string& id) const;
  Result<MadeSnapshot> snapshot(const Images& all, const std::string& id) const;
  ArrayVolume volume_of(const RbdImage& image) const;
  // The whole volume of a name, of an image that is still called NEW.
  Result<ArrayVolume> commit(const std::string& name);

  // Where this host shows an image, or a snapshot of it.
  Result<std::vector<RbdDevice>> devices(const std::string& image_id,
                                         std::optional<uint64_t> snapshot_id);
  Result<> unmap_all(const std::string& image_id, std::optional<uint64_t> snapshot_id);
  bool is_here(const RbdDevice& device, const std::string& fsid) const;
  Result<> check_unused(const RbdImage& image);
  Result<> roll_back(const std::string& image, const std::string& snapshot);
  Result<RbdHealth> check_writes();
  Result<> remove_volume(const RbdImage& image);
  Result<> remove_snapshot(const MadeSnapshot& made);
  void remove_gone() const;
  // The names of images that cannot be opened: their making was cut short.
  Result<std::vector<std::string>> halves(const Images& all) const;
  Result<std::string> fsid();

  const RbdPool pool_;
  std::string fsid_;  // "" until it is asked for
};

Result<std::string> RbdArray::fsid() {
  if (fsid_.empty()) fsid_ = TRY(pool_.fsid());
  return fsid_;
}

Result<RbdImage> RbdArray::volume(const Images& all, const std::string& id) const {
  const RbdImage* found = with_id(all, id);
  if (found != nullptr && !holds_name(*found)) {
    const MadeName name = made(found->name);
    if (name.name.empty() || name.whole) return *found;
  }
  return pool_.error(fmt::format("there is no whole volume with the id {}", id));
}

Result<MadeSnapshot> RbdArray::snapshot(const Images& all, const std::string& id) const {
  const RbdImage* holder = with_id(all, id);
  if (holder != nullptr && holds_name(*holder)) {
    const MadeSnapshot found = snapshot_of(all, *holder);
    if (found.whole) return found;
  }
  return pool_.error(fmt::format("there is no whole snapshot with the id {}", id));
}

ArrayVolume RbdArray::volume_of(const RbdImage& image) const {
  const MadeName name = made(image.name);
  return {image.id, name.name.empty() ? image.name : name.name, image.size_bytes,
          name.name.empty() || name.whole};
}

bool RbdArray::is_here(const RbdDevice& device, const std::string& fsid) const {
  return device.fsid == fsid && device.pool == pool_.config().pool &&
         device.pool_namespace == pool_.config().pool_namespace;
}

Result<std::vector<RbdDevice>> RbdArray::devices(const std::string& image_id,
                                                 std::optional<uint64_t> snapshot_id) {
  std::vector<RbdDevice> all = rbd_devices(pool_.config().sys_folder, pool_.config().device_folder);
  std::erase_if(all, [&](const RbdDevice& device) {
    return device.image_id != image_id || device.snapshot_id != snapshot_id;
  });
  if (all.empty()) return all;
  const std::string cluster = TRY(fsid());
  std::erase_if(all, [&](const RbdDevice& device) { return !is_here(device, cluster); });
  return all;
}

Result<std::optional<ArrayVolume>> RbdArray::find(const DiskMedium& medium) {
  const auto lun = pool_.config().luns.find(medium.wwn);
  if (lun != pool_.config().luns.end()) {
    const std::optional<RbdImage> image = TRY(pool_.image(lun->second));
    if (image) return std::optional<ArrayVolume>(volume_of(*image));
    return pool_.error(fmt::format("the LUN {} should be the image {}, which is not in the pool",
                                   medium.wwn, lun->second));
  }
  struct stat status {};
  if (medium.device.empty() || ::stat(medium.device.c_str(), &status) != 0 ||
      !S_ISBLK(status.st_mode)) {
    return std::optional<ArrayVolume>();
  }
  for (const RbdDevice& device :
       rbd_devices(pool_.config().sys_folder, pool_.config().device_folder)) {
    if (device.number != status.st_rdev || device.snapshot_id) continue;
    if (!is_here(device, TRY(fsid()))) break;
    const std::optional<RbdImage> image = TRY(pool_.image_with_id(device.image_id));
    if (image) return std::optional<ArrayVolume>(volume_of(*image));
  }
  return std::optional<ArrayVolume>();
}

Result<std::unique_ptr<PreparedSnapshot>> RbdArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  const Images all = TRY(pool_.images());
  std::vector<PreparedRbd::Part> parts;
  for (const SnapshotRequest& request : requests) {
    RbdImage of = TRY(volume(all, request.volume.id));
    parts.push_back({request.name, std::move(of)});
  }
  auto prepared = std::make_unique<PreparedRbd>(pool_, std::move(parts));
  // Writes to the pool: one that takes none is met here, not while guests are frozen.
  Result<> held = prepared->hold_names();
  if (!held) {
    TRY(check_writes());
    return std::move(held).error();
  }
  return std::unique_ptr<PreparedSnapshot>(std::move(prepared));
}

Result<ArrayVolume> RbdArray::commit(const std::string& name) {
  const std::string image = made_as(this->name(), name);
  const std::string made = image + std::string(kNew);
  Result<> renamed = pool_.rename(made, image);
  if (!renamed) {
    const bool taken = renamed.error().os_errno == EEXIST;
    static_cast<void>(pool_.remove(made).ok());
    return taken ? name_taken(this->name(), name) : std::move(renamed).error();
  }
  const std::optional<RbdImage> whole = TRY(pool_.image(image));
  if (whole) return volume_of(*whole);
  return pool_.error(fmt::format("the image {} is gone as soon as it is made", image));
}

Result<ArrayVolume> RbdArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(this->name(), name));
  const Images all = TRY(pool_.images());
  const MadeSnapshot from = TRY(snapshot(all, snapshot_id));
  const std::string image = made_as(this->name(), name);
  if (with_name(all, image) != nullptr) return name_taken(this->name(), name);
  Result<> cloned = pool_.clone(from.volume->name, from.snapshot->name, image + std::string(kNew));
  if (!cloned && cloned.error().os_errno == EEXIST) return name_taken(this->name(), name);
  TRY(std::move(cloned));
  return commit(name);
}

Result<ArrayVolume> RbdArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(this->name(), name));
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return pool_.error(fmt::format("a volume of {} bytes cannot be made; write a multiple of {}",
                                   size_bytes, kSizeGranule));
  }
  Result<> created = pool_.create(made_as(this->name(), name) + std::string(kNew), size_bytes);
  if (!created && created.error().os_errno == EEXIST) return name_taken(this->name(), name);
  TRY(std::move(created));
  return commit(name);
}

// A LUN is always open where it is exported, so nothing can be said of it. What is mapped on this
// host may be, as long as nobody holds it exclusively, as file systems and device-mapper do.
Result<> RbdArray::check_unused(const RbdImage& image) {
  for (const auto& [wwn, exported] : pool_.config().luns) {
    if (exported == image.name) return {};
  }
  std::vector<uint64_t> watchers = TRY(pool_.watchers(image.name));
  const auto locked = [&](const std::string& who) {
    Error error = pool_.error(fmt::format("{} is in use {}; stop that first", image.name, who));
    error.kind = ErrorKind::kLocked;
    return error;
  };
  for (const RbdDevice& device : TRY(devices(image.id, std::nullopt))) {
    const UniqueFd fd(::open(device.path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    if (!fd && errno == EBUSY) return locked("as " + device.path);
    std::erase(watchers, device.client);
  }
  if (watchers.empty()) return {};
  return locked(fmt::format("by client {} of Ceph (rbd status)", watchers[0]));
}

// A kernel that has written to an image keeps its lock until another client asks for it; a roll
// back does not ask, and finds an image that is read-only. A snapshot does.
Result<> RbdArray::roll_back(const std::string& image, const std::string& snapshot) {
  Result<> rolled = pool_.roll_back(image, snapshot);
  if (rolled.ok() || rolled.error().os_errno != EROFS) return rolled;
  const std::string asks = snapshot + std::string(kLock);
  TRY(pool_.remove_snapshot(image, asks));  // of a restore that was cut short
  TRY(pool_.create_snapshot(image, asks));
  TRY(pool_.remove_snapshot(image, asks));
  return pool_.roll_back(image, snapshot);
}

Result<> RbdArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const Images all = TRY(pool_.images());
  const MadeSnapshot from = TRY(snapshot(all, snapshot_id));
  const RbdImage to = TRY(volume(all, volume_id));
  if (from.volume->id != to.id) {
    return pool_.error(fmt::format("{} is no snapshot of {}", from.snapshot->name, to.name));
  }
  TRY(check_unused(to));
  TRY(roll_back(to.name, from.snapshot->name));
  // What this host has in memory of it is old.
  for (const RbdDevice& device : TRY(devices(to.id, std::nullopt))) {
    const UniqueFd fd(::open(device.path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd) static_cast<void>(::ioctl(fd.get(), BLKFLSBUF, 0));
  }
  return {};
}

Result<MappedVolume> RbdArray::map(const std::string& id) {
  const Images all = TRY(pool_.images());
  std::string image_id = id;
  std::optional<uint64_t> snapshot_id;
  std::string image;
  std::string snapshot_name;
  const RbdImage* found = with_id(all, id);
  if (found != nullptr && holds_name(*found)) {
    const MadeSnapshot from = TRY(snapshot(all, id));
    image_id = from.volume->id;
    snapshot_id = from.snapshot->id;
    image = from.volume->name;
    snapshot_name = from.snapshot->name;
  } else {
    image = TRY(volume(all, id)).name;
  }
  std::vector<RbdDevice> mapped = TRY(devices(image_id, snapshot_id));
  if (mapped.empty()) {
    TRY(pool_.map(image, snapshot_name));
    mapped = TRY(devices(image_id, snapshot_id));
  }
  if (!mapped.empty()) return MappedVolume{"", mapped[0].path};
  return pool_.error(fmt::format("{} is mapped, but the kernel does not show it", image));
}

Result<> RbdArray::unmap_all(const std::string& image_id, std::optional<uint64_t> snapshot_id) {
  for (const RbdDevice& device : TRY(devices(image_id, snapshot_id))) {
    TRY(pool_.unmap(device.path));
  }
  return {};
}

// A volume of the administrator's was mapped before, and stays so.
Result<> RbdArray::unmap(const std::string& id) {
  const Images all = TRY(pool_.images());
  const RbdImage* found = with_id(all, id);
  if (found == nullptr || made(found->name).name.empty()) return {};
  if (!holds_name(*found)) return unmap_all(id, std::nullopt);
  const MadeSnapshot of = snapshot_of(all, *found);
  if (of.snapshot == nullptr) return {};
  return unmap_all(of.volume->id, of.snapshot->id);
}

Result<> RbdArray::remove(const std::string& id) {
  if (id.starts_with(kHalf)) {
    const std::string half = id.substr(kHalf.size());
    const std::vector<std::string> left = TRY(halves(TRY(pool_.images())));
    if (std::ranges::find(left, half) == left.end()) return {};
    return pool_.remove(half);
  }
  const Images all = TRY(pool_.images());
  const RbdImage* found = with_id(all, id);
  if (found == nullptr || made(found->name).gone) return {};
  if (made(found->name).name.empty()) {
    return pool_.error(fmt::format("{} was not made here, and is not removed", found->name));
  }
  TRY(holds_name(*found) ? remove_snapshot(snapshot_of(all, *found)) : remove_volume(*found));
  const auto is_gone = [this](const RbdImage& image) { return made(image.name).gone; };
  if (std::ranges::any_of(all, is_gone)) remove_gone();
  return {};
}

// The image that holds the name goes last: until then it is listed, and can be removed again.
Result<> RbdArray::remove_snapshot(const MadeSnapshot& made) {
  if (made.snapshot != nullptr) {
    TRY(unmap_all(made.volume->id, made.snapshot->id));
    TRY(pool_.remove_snapshot(made.volume->name, made.snapshot->name));
    for (const RbdSnapshot& other : made.volume->snapshots) {
      if (other.name != made.holder->name + std::string(kLock)) continue;
      TRY(pool_.remove_snapshot(made.volume->name, other.name));
    }
  }
  return pool_.remove(made.holder->name);
}

Result<> RbdArray::remove_volume(const RbdImage& image) {
  TRY(unmap_all(image.id, std::nullopt));
  Result<> removed = pool_.remove(image.name);
  if (removed.ok() || removed.error().os_errno != ENOTEMPTY) return removed;
  const std::string named = made_as(name(), made(image.name).name);
  return pool_.rename(image.name, named + std::string(kGone) + image.id);
}

// Those that nothing depends on any more, which may free others. An error is of no interest: they
// are looked at again with the next removal.
void RbdArray::remove_gone() const {
  Result<Images> all = pool_.images();
  if (!all) return;
  std::erase_if(*all, [&](const RbdImage& image) {
    return !made(image.name).gone || !image.snapshots.empty();
  });
  while (std::erase_if(*all, [&](const RbdImage& image) { return pool_.remove(image.name).ok(); }) >
         0) {
  }
}

Result<std::vector<std::string>> RbdArray::halves(const Images& all) const {
  std::vector<std::string> names = TRY(pool_.names());
  std::erase_if(names, [&](const std::string& name) {
    return with_name(all, name) != nullptr || made(name).name.empty();
  });
  return names;
}

Result<std::vector<ArraySnapshot>> RbdArray::list_snapshots(const std::string& prefix) {
  const Images all = TRY(pool_.images());
  std::vector<ArraySnapshot> listed;
  for (const RbdImage& image : all) {
    const std::string name = made(image.name).name;
    if (!holds_name(image) || !name.starts_with(prefix)) continue;
    const MadeSnapshot found = snapshot_of(all, image);
    ArraySnapshot one{image.id, name, "", 0, found.whole};
    if (found.snapshot != nullptr) {
      one.volume_id = found.volume->id;
      one.size_bytes = found.snapshot->size_bytes;
    }
    listed.push_back(std::move(one));
  }
  for (const std::string& half : TRY(halves(all))) {
    const MadeName name = made(half);
    if (!name.whole || !name.name.starts_with(prefix)) continue;
    listed.push_back({std::string(kHalf) + half, name.name, "", 0, false});
  }
  return listed;
}

Result<std::vector<ArrayVolume>> RbdArray::list_volumes(const std::string& prefix) {
  const Images all = TRY(pool_.images());
  std::vector<ArrayVolume> listed;
  for (const RbdImage& image : all) {
    const MadeName name = made(image.name);
    if (name.name.empty() || name.gone || holds_name(image)) continue;
    if (name.name.starts_with(prefix)) listed.push_back(volume_of(image));
  }
  for (const std::string& half : TRY(halves(all))) {
    const MadeName name = made(half);
    if (name.whole || name.gone || !name.name.starts_with(prefix)) continue;
    listed.push_back({std::string(kHalf) + half, name.name, 0, false});
  }
  return listed;
}

Result<RbdHealth> RbdArray::check_writes() {
  RbdHealth now = TRY(pool_.health());
  if (now.stopped.empty()) return now;
  return pool_.error("it takes no writes: " + now.stopped);
}

Result<> RbdArray::health() {
  const RbdHealth now = TRY(check_writes());
  if (!now.ill.empty()) return pool_.error("Ceph says: " + now.ill);
  return {};
}

}  // namespace

std::unique_ptr<ArrayProvider> make_rbd_array(const RbdConfig& config) {
  return std::make_unique<RbdArray>(config);
}

}  // namespace plumb
