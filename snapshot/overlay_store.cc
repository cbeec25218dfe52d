#include "snapshot/overlay_store.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/uuid.h"
#include "blockdev/cow_restore.h"
#include "blockdev/file_lock.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;
using Overlay = OverlayStore::Overlay;

constexpr std::string_view kLive = ".cow";
constexpr std::string_view kDeleted = ".deleted";
constexpr const char* kDiskNameSpace = "5bd0b3a7-8f5e-4d35-9d0f-3b1f0a4c7c11";
constexpr int kScans = 20;  // of a folder that others change meanwhile

Result<std::unique_ptr<CowFdFile>> open_overlay(const std::string& path, int flags) {
  return CowFdFile::open(TRY(open_file("overlay", path, flags)), "overlay " + path);
}

// By a VM, and not by one that was killed a moment ago.
Result<bool> is_used(const Overlay& overlay) {
  const UniqueFd fd = TRY(open_file("overlay", overlay.path, O_RDONLY));
  Result<> unlocked = check_unlocked(fd.get(), "overlay " + overlay.path);
  if (unlocked) return false;
  if (unlocked.error().kind == ErrorKind::kLocked) return true;
  return std::move(unlocked).error();
}

Result<> remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return os_error(errno, "overlay {} cannot be removed", path);
  }
  return sync_folder_of(path);
}

struct Scan {
  std::vector<Overlay> overlays;
  std::vector<std::string> others;  // paths of those that cannot be read
  bool changed = false;             // a file went while we looked
};

Result<Scan> scan(const std::string& folder) {
  Scan scan;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const fs::path& path = entry.path();
    const bool deleted = path.extension() == kDeleted;
    if (!deleted && path.extension() != kLive) continue;
    Result<std::unique_ptr<CowFdFile>> file = open_overlay(path.string(), O_RDONLY);
    if (!file && file.error().os_errno == ENOENT) scan.changed = true;
    if (!file && file.error().os_errno == ENOENT) continue;
    if (!file) return std::move(file).error();
    Result<CowOverlay> loaded = load_cow_overlay(**file);
    if (!loaded) {
      scan.others.push_back(path.string());
      continue;
    }
    Overlay& overlay = scan.overlays.emplace_back();
    overlay.name = path.stem().string();
    overlay.path = path.string();
    overlay.deleted = deleted;
    overlay.kept_bytes = loaded->table.kept() * loaded->header.grain_bytes;
    overlay.header = std::move(loaded->header);
    overlay.older = std::move(loaded->older);
    overlay.state = std::move(loaded->state);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return os_error(error.value(), "folder {} cannot be read", folder);
  }
  return scan;
}

// From the newest, which is written, or will be, down to the oldest; what is not reached leans on
// something that is lost, or is what an interrupted deletion has left.
Result<std::vector<Overlay>> linked(std::vector<Overlay> overlays, const std::string& folder) {
  std::set<std::string> leaned_on;
  std::map<std::string, const Overlay*> by_uuid;
  // What is deleted and sealed was merged, if nothing newer is there.
  for (bool peeled = true; peeled;) {
    leaned_on.clear();
    for (const Overlay& one : overlays) leaned_on.insert(one.older);
    peeled = std::erase_if(overlays, [&](const Overlay& one) {
               return one.deleted && one.state.condition == CowCondition::kSealed &&
                      !leaned_on.contains(one.header.uuid);
             }) > 0;
  }
  const Overlay* newest = nullptr;
  for (const Overlay& one : overlays) {
    by_uuid[one.header.uuid] = &one;
    const bool last =
        !leaned_on.contains(one.header.uuid) && one.state.condition != CowCondition::kSealed;
    if (last && newest != nullptr) {
      return failed("{} and {} in {} both say that they are the newest; keep one of the two",
                    newest->name, one.name, folder);
    }
    if (last) newest = &one;
  }
  std::vector<Overlay> chain;
  while (newest != nullptr && chain.size() < overlays.size()) {
    chain.insert(chain.begin(), *newest);
    const auto older = by_uuid.find(newest->older);
    newest = older == by_uuid.end() ? nullptr : older->second;
  }
  return chain;
}

bool has_live(const std::vector<Overlay>& chain) {
  return std::ranges::any_of(chain, [](const Overlay& one) { return !one.deleted; });
}

Result<> merge(const Overlay& from, const Overlay& into) {
  const auto from_file = TRY(open_overlay(from.path, O_RDWR));
  const auto into_file = TRY(open_overlay(into.path, O_RDWR));
  return merge_cow_overlay(*from_file, *into_file);
}

Result<uint64_t> half_of_free(const std::string& folder) {
  struct statvfs space {};
  if (::statvfs(folder.c_str(), &space) != 0) {
    return os_error(errno, "folder {} cannot be examined", folder);
  }
  return uint64_t{space.f_bavail} * space.f_frsize / 2 / kCowGrainBytes * kCowGrainBytes;
}

}  // namespace

std::string OverlayStore::folder_of(const std::string& disk) const {
  return folder_ + "/" + Uuid::derived(Uuid::parse(kDiskNameSpace).value(), disk).text();
}

Result<std::vector<Overlay>> OverlayStore::chain(const std::string& disk) const {
  const std::string folder = folder_of(disk);
  for (int i = 0; i < kScans; ++i) {
    Scan found = TRY(scan(folder));
    if (found.changed) continue;
    std::erase_if(found.overlays, [&](const Overlay& one) { return one.header.disk != disk; });
    return linked(std::move(found.overlays), folder);
  }
  return failed("the snapshots in {} change all the time; try again", folder);
}

Result<std::vector<Overlay>> OverlayStore::all() const {
  std::vector<Overlay> all;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error)) {
    Scan found = TRY(scan(entry.path().string()));
    std::ranges::move(found.overlays, std::back_inserter(all));
  }
  return all;
}

Result<OverlayStore::Changes> OverlayStore::change(const std::string& disk) const {
  const std::string folder = folder_of(disk);
  TRY(make_folders(folder, 0700));
  UniqueFd lock = TRY(open_file("lock", folder + "/lock", O_RDWR | O_CREAT));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(lock.get(), F_OFD_SETLKW, &whole) != 0) {
    return os_error(errno, "the snapshots of {} cannot be locked", disk);
  }
  return Changes(*this, disk, std::move(lock));
}

Result<UniqueFd> OverlayStore::open_for_vm(
    const std::string& disk, int base_fd,
    const std::function<void(const std::string& why)>& lost) const {
  for (int i = 0; i < kScans; ++i) {
    const std::vector<Overlay> now = TRY(chain(disk));
    if (!has_live(now)) return UniqueFd();
    const Overlay& newest = now.back();
    UniqueFd fd(::open(newest.path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd && errno == ENOENT) continue;
    if (!fd) return os_error(errno, "overlay {} cannot be opened", newest.path);
    TRY(lock_file(fd.get(), "overlay " + newest.path, true));
    // It may have been merged into another before it was ours.
    const std::vector<Overlay> then = TRY(chain(disk));
    if (then.empty() || then.back().header.uuid != newest.header.uuid) continue;
    const auto file = TRY(CowFdFile::open(std::move(fd), "overlay " + newest.path));
    Result<CowOverlay> opened = open_cow_overlay(*file, disk, TRY(stamp_cow_base(base_fd, disk)));
    if (opened) return std::move(*file).take();
    lost(opened.error().message);
    TRY(break_cow_overlay(*file, opened.error().message));
    return UniqueFd();
  }
  return failed("the snapshots of {} change all the time; try again", disk);
}

Result<std::unique_ptr<CowReader>> OverlayStore::read(const std::string& disk,
                                                      const std::string& name,
                                                      UniqueFd base) const {
  const std::vector<Overlay> now = TRY(chain(disk));
  const auto own = std::ranges::find(now, name, &Overlay::name);
  if (own == now.end() || own->deleted) {
    return failed("snapshot {} of {} is not there, or an overlay that it needs is lost", name,
                  disk);
  }
  CowReader::Config config;
  config.base_now = TRY(stamp_cow_base(base.get(), disk));
  config.base = TRY(CowFdFile::open(std::move(base), disk));
  for (auto one = own; one != now.end(); ++one) {
    config.overlays.push_back(TRY(open_overlay(one->path, O_RDONLY)));
  }
  config.newer = [store = *this,
                  disk](const std::string& uuid) -> Result<std::unique_ptr<CowFile>> {
    const std::vector<Overlay> later = TRY(store.chain(disk));
    const auto next = std::ranges::find(later, uuid, &Overlay::older);
    if (next == later.end()) return failed("what followed snapshot {} of {} is lost", uuid, disk);
    return std::unique_ptr<CowFile>(TRY(open_overlay(next->path, O_RDONLY)));
  };
  return CowReader::open(std::move(config));
}

// As a VM does it (begin_cow): the overlay before is sealed, unless it is not whole any more.
Result<> OverlayStore::keep_at_rest(const std::string& disk, int base_fd, UniqueFd overlay) const {
  const CowBaseStamp now = TRY(stamp_cow_base(base_fd, disk));
  const std::vector<Overlay> chain = TRY(this->chain(disk));
  if (chain.size() > 1) {
    const Overlay& before = chain[chain.size() - 2];
    if (TRY(is_used(before))) return failed("a VM keeps the snapshots of {}", disk);
    const auto file = TRY(open_overlay(before.path, O_RDWR));
    const CowOverlay content = TRY(load_cow_overlay(*file));
    Result<> unchanged = check_cow_base(content, now);
    if (!unchanged) TRY(break_cow_overlay(*file, unchanged.error().message));
    if (unchanged && content.state.condition != CowCondition::kBroken) {
      TRY(leave_cow_overlay(*file, CowCondition::kSealed));
    }
  }
  const auto file = TRY(CowFdFile::open(std::move(overlay), "the new overlay of " + disk));
  return leave_cow_overlay(*file, CowCondition::kClean, now);
}

Result<> OverlayStore::restore(const std::string& disk, const std::string& name,
                               UniqueFd base) const {
  const std::vector<Overlay> now = TRY(chain(disk));
  const auto own = std::ranges::find(now, name, &Overlay::name);
  std::string why = "it is not there, or an overlay that it needs is lost";
  UniqueFd newest;
  if (own != now.end() && !own->deleted) {
    newest =
        TRY(open_for_vm(disk, base.get(), [&why](const std::string& reason) { why = reason; }));
  }
  if (!newest) return failed("snapshot {} of {} cannot be gone back to: {}", name, disk, why);
  std::vector<std::unique_ptr<CowFile>> overlays;
  for (auto one = own; one + 1 != now.end(); ++one) {
    overlays.push_back(TRY(open_overlay(one->path, O_RDONLY)));
  }
  overlays.push_back(TRY(CowFdFile::open(std::move(newest), "overlay " + now.back().path)));
  const auto file = TRY(CowFdFile::open(std::move(base), disk));
  Result<> restored = restore_cow_snapshot(*file, overlays);
  // Also after an error: what was overwritten until then is kept.
  Result<> left = leave_cow_overlay(*overlays.back(), CowCondition::kClean,
                                    TRY(stamp_cow_base(file->fd(), disk)));
  return restored ? std::move(left) : std::move(restored);
}

Result<UniqueFd> OverlayStore::Changes::add(const std::string& name, uint64_t size_bytes) {
  const std::string path = fmt::format("{}/{}", store_.folder_of(disk_), name);
  for (const std::string_view ending : {kLive, kDeleted}) {
    if (fs::exists(path + std::string(ending))) {
      return failed("there is a snapshot {} of {} already", name, disk_);
    }
  }
  if (disk_.size() > kCowMaxTextBytes) {
    return failed("the path {} is too long to keep snapshots of it; {} bytes are the most", disk_,
                  kCowMaxTextBytes);
  }
  const std::vector<Overlay> chain = TRY(store_.chain(disk_));
  const CowHeader header{.uuid = TRY(Uuid::random()).text(),
                         .disk = disk_,
                         .base_bytes = size_bytes,
                         .limit_bytes = store_.limit_bytes_ != 0
                                            ? store_.limit_bytes_
                                            : TRY(half_of_free(store_.folder_of(disk_)))};
  return create_cow_overlay(path + std::string(kLive), header,
                            chain.empty() ? "" : chain.back().header.uuid);
}

Result<> OverlayStore::Changes::remove(const std::string& name, const LetGo& let_go) {
  const std::string path = fmt::format("{}/{}", store_.folder_of(disk_), name);
  const std::string live = path + std::string(kLive);
  if (::rename(live.c_str(), (path + std::string(kDeleted)).c_str()) != 0 && errno != ENOENT) {
    return os_error(errno, "overlay {} cannot be renamed", live);
  }
  TRY(sync_folder_of(live));
  return tidy(let_go);
}

Result<> OverlayStore::Changes::tidy(const LetGo& let_go) {
  while (TRY(tidy_once(let_go))) {
  }
  return {};
}

// Whether there may be more to do.
Result<bool> OverlayStore::Changes::tidy_once(const LetGo& let_go) {
  const std::vector<Overlay> chain = TRY(store_.chain(disk_));
  const Scan found = TRY(scan(store_.folder_of(disk_)));
  const auto drop = [](const std::string& path) -> Result<> {
    return path.ends_with(kDeleted) ? remove_file(path) : Result<>();
  };
  for (const std::string& path : found.others) TRY(drop(path));
  for (const Overlay& one : found.overlays) {
    if (std::ranges::find(chain, one.path, &Overlay::path) == chain.end()) TRY(drop(one.path));
  }
  const auto first = std::ranges::find(chain, true, &Overlay::deleted);
  if (first == chain.end()) return false;
  const auto at = static_cast<size_t>(first - chain.begin());
  if (at + 1 == chain.size()) return take_newest(chain, let_go);
  TRY(take_inner(chain, at));
  return true;
}

// The deleted one with others on both sides, or with newer ones only.
Result<> OverlayStore::Changes::take_inner(const std::vector<Overlay>& chain, size_t at) {
  const Overlay& gone = chain[at];
  if (at > 0) TRY(merge(gone, chain[at - 1]));
  const auto newer = TRY(open_overlay(chain[at + 1].path, O_RDWR));
  TRY(relink_cow_overlay(*newer, at > 0 ? chain[at - 1].header.uuid : ""));
  return remove_file(gone.path);
}

// The newest is deleted, and all others are snapshots.
Result<bool> OverlayStore::Changes::take_newest(const std::vector<Overlay>& chain,
                                                const LetGo& let_go) {
  const Overlay& gone = chain.back();
  const bool used = TRY(is_used(gone));
  if (used && chain.size() > 1) return false;  // what they lack is kept there
  if (used && !let_go(gone.header.uuid)) return false;
  // When the VM has the one before, this one never was its own.
  if (!used && chain.size() > 1) {
    const Overlay& older = chain[chain.size() - 2];
    const bool older_used = TRY(is_used(older));
    if (!older_used) TRY(merge(gone, older));
  }
  TRY(remove_file(gone.path));
  return true;
}

}  // namespace plumb
