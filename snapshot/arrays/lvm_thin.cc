#include "snapshot/arrays/lvm_thin.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "base/program.h"
#include "base/unique_fd.h"
#include "blockdev/cow_file.h"
#include "rdm/lun_resolver.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/copy_differences.h"
#include "snapshot/arrays/lvm_report.h"

namespace plumb {
namespace {

constexpr std::string_view kPrefix = "plumb.";
constexpr std::string_view kKeep = ".keep";  // beside a snapshot while its volume is restored
constexpr const char* kArrayTag = "plumb:array=";
constexpr const char* kKindTag = "plumb:kind=";       // snapshot or volume
constexpr const char* kVolumeTag = "plumb:of=";       // of a snapshot: its volume's name
constexpr const char* kPartialTag = "plumb:partial";  // a take that has not been finished
constexpr uint64_t kSizeGranule = 4096;
constexpr double kMetadataFullPercent = 97;

using Words = std::vector<std::string>;
using CowFdPtr = std::unique_ptr<CowFdFile>;

// LVM's programs, and what they say.
class Lvm {
 public:
  explicit Lvm(LvmThinConfig config) : config_(std::move(config)) {}

  const LvmThinConfig& config() const { return config_; }
  std::string id_of(const std::string& lv) const { return config_.volume_group + "/" + lv; }
  std::string lv_of(const std::string& name) const { return std::string(kPrefix) + name; }

  Error error(const std::string& text) const {
    return failed("array {} (LVM {}/{}): {}", config_.name, config_.volume_group, config_.pool,
                  text);
  }

  Result<std::string> run(Words words) const {
    const std::string what = words.front();
    Result<ProgramAnswer> ran =
        run_program({.program = config_.program,
                     .arguments = std::move(words),
                     .environment = {"LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1"},
                     .timeout_ms = config_.timeout_ms});
    if (!ran) return error(fmt::format("{}: {}", what, ran.error().message));
    if (ran->exit_status == 0) return std::move(ran->output);
    Error refused = error(fmt::format("{}: {}", what, last_words(ran->errors)));
    if (ran->errors.find(" in use") != std::string::npos) refused.kind = ErrorKind::kLocked;
    return refused;
  }

  Result<> change(Words words) const {
    TRY(run(std::move(words)));
    return {};
  }

  // All volumes of the group.
  Result<std::vector<LvmVolume>> volumes() const {
    const std::string text = TRY(run({"lvs", "--reportformat", "json", "--units", "b", "--nosuffix",
                                      "-o", kLvsColumns, config_.volume_group}));
    Result<std::vector<LvmVolume>> all = parse_lvs(text);
    if (!all) return error(all.error().message);
    TRY(settle(*all));
    return all;
  }

  // Of what was made here, the name.
  std::string name_of(const LvmVolume& volume) const {
    const bool ours = volume.pool == config_.pool && volume.name.starts_with(kPrefix) &&
                      volume.tag_after(kArrayTag) == config_.name;
    return ours ? volume.name.substr(kPrefix.size()) : "";
  }

 private:
  // A restore merges the snapshot into its volume, and what was kept of it takes its name; a crash
  // in between leaves that to do.
  Result<> settle(std::vector<LvmVolume>& all) const {
    for (LvmVolume& volume : all) {
      if (!volume.name.ends_with(kKeep) || name_of(volume).empty()) continue;
      const std::string lv = volume.name.substr(0, volume.name.size() - kKeep.size());
      if (std::ranges::find(all, lv, &LvmVolume::name) != all.end()) continue;
      TRY(change({"lvrename", config_.volume_group, volume.name, lv}));
      volume.name = lv;
    }
    return {};
  }

  const LvmThinConfig config_;
};

const LvmVolume* with_id(const Lvm& lvm, const std::vector<LvmVolume>& all, const std::string& id) {
  const auto found = std::ranges::find_if(
      all, [&](const LvmVolume& volume) { return lvm.id_of(volume.name) == id; });
  return found == all.end() ? nullptr : &*found;
}

class PreparedLvm final : public PreparedSnapshot {
 public:
  struct Part {
    std::string name;
    LvmVolume volume;
  };

  PreparedLvm(const Lvm& lvm, std::vector<Part> parts) : lvm_(lvm), parts_(std::move(parts)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedLvm() override {
    for (const std::string& id : made_) {
      static_cast<void>(lvm_.change({"lvremove", "-y", "-f", id}).ok());
    }
  }

  Result<> take() override {
    for (const Part& part : parts_) {
      TRY(lvm_.change({"lvcreate", "-s", "-pr", "--setactivationskip", "y", "--addtag",
                       kArrayTag + lvm_.config().name, "--addtag",
                       std::string(kKindTag) + "snapshot", "--addtag",
                       kVolumeTag + part.volume.name, "--addtag", kPartialTag, "-n",
                       lvm_.lv_of(part.name), lvm_.id_of(part.volume.name)}));
      made_.push_back(lvm_.id_of(lvm_.lv_of(part.name)));
    }
    return {};
  }

  Result<std::vector<ArraySnapshot>> finish() override {
    Words words = {"lvchange", "--deltag", kPartialTag};
    words.insert(words.end(), made_.begin(), made_.end());
    TRY(lvm_.change(std::move(words)));
    std::vector<ArraySnapshot> all;
    for (const Part& part : parts_) {
      all.push_back({lvm_.id_of(lvm_.lv_of(part.name)), part.name, lvm_.id_of(part.volume.name),
                     part.volume.size_bytes, true});
    }
    made_.clear();
    return all;
  }

 private:
  const Lvm& lvm_;
  const std::vector<Part> parts_;
  std::vector<std::string> made_;  // dropped by the destructor
};

class LvmThinArray final : public ArrayProvider {
 public:
  explicit LvmThinArray(const LvmThinConfig& config) : lvm_(config) {}

  const std::string& name() const override { return lvm_.config().name; }
  // LVM restores only what nobody has open.
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
  // A volume of the pool; the pool itself and what is not whole are none.
  Result<LvmVolume> volume(const std::vector<LvmVolume>& all, const std::string& id) const;
  Result<LvmVolume> snapshot(const std::vector<LvmVolume>& all, const std::string& id) const;
  Result<LvmVolume> pool(const std::vector<LvmVolume>& all) const;
  // What is wrong with the pool.
  Result<> check(const std::vector<LvmVolume>& all) const;
  Result<> check_free(const std::vector<LvmVolume>& all, const std::string& name) const;
  Words tags_of(const char* kind) const;
  // The content of a snapshot that LVM cannot merge.
  Result<> copy_back(const LvmVolume& from, const LvmVolume& to) const;

  const Lvm lvm_;
};

Words LvmThinArray::tags_of(const char* kind) const {
  return {"--addtag", kArrayTag + name(), "--addtag", std::string(kKindTag) + kind};
}

Result<LvmVolume> LvmThinArray::volume(const std::vector<LvmVolume>& all,
                                       const std::string& id) const {
  const LvmVolume* found = with_id(lvm_, all, id);
  if (found != nullptr && found->pool == lvm_.config().pool && !found->has_tag(kPartialTag)) {
    return *found;
  }
  return lvm_.error(fmt::format("there is no whole volume {} in the pool", id));
}

Result<LvmVolume> LvmThinArray::snapshot(const std::vector<LvmVolume>& all,
                                         const std::string& id) const {
  LvmVolume found = TRY(volume(all, id));
  if (!lvm_.name_of(found).empty() && found.tag_after(kKindTag) == "snapshot") return found;
  return lvm_.error(fmt::format("{} is no snapshot made here", id));
}

Result<LvmVolume> LvmThinArray::pool(const std::vector<LvmVolume>& all) const {
  const LvmVolume* found = with_id(lvm_, all, lvm_.id_of(lvm_.config().pool));
  if (found != nullptr) return *found;
  return lvm_.error("there is no such thin pool");
}

Result<> LvmThinArray::check_free(const std::vector<LvmVolume>& all,
                                  const std::string& name) const {
  TRY(check_array_name(this->name(), name));
  if (with_id(lvm_, all, lvm_.id_of(lvm_.lv_of(name))) == nullptr) return {};
  return name_taken(this->name(), name);
}

Result<std::optional<ArrayVolume>> LvmThinArray::find(const DiskMedium& medium) {
  const auto lun = lvm_.config().luns.find(medium.wwn);
  const bool configured = lun != lvm_.config().luns.end();
  struct stat status {};
  if (!configured && (medium.device.empty() || ::stat(medium.device.c_str(), &status) != 0)) {
    return std::optional<ArrayVolume>();
  }
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  const auto is_it = [&](const LvmVolume& one) {
    if (configured) return one.name == lun->second;
    return one.number != 0 && one.number == status.st_rdev;
  };
  const auto found = std::ranges::find_if(all, is_it);
  if (found != all.end() && found->pool == lvm_.config().pool) {
    const std::string name = lvm_.name_of(*found);
    return std::optional<ArrayVolume>(
        {lvm_.id_of(found->name), name.empty() ? found->name : name, found->size_bytes, true});
  }
  if (!configured) return std::optional<ArrayVolume>();
  return lvm_.error(fmt::format("the LUN {} should be the volume {}, which is not in the pool",
                                medium.wwn, lun->second));
}

Result<std::unique_ptr<PreparedSnapshot>> LvmThinArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  TRY(check(all));
  std::vector<PreparedLvm::Part> parts;
  for (const SnapshotRequest& request : requests) {
    TRY(check_free(all, request.name));
    LvmVolume of = TRY(volume(all, request.volume.id));
    parts.push_back({request.name, std::move(of)});
  }
  return std::make_unique<PreparedLvm>(lvm_, std::move(parts));
}

Result<ArrayVolume> LvmThinArray::clone(const std::string& snapshot_id, const std::string& name) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  TRY(check_free(all, name));
  TRY(check(all));
  const LvmVolume from = TRY(snapshot(all, snapshot_id));
  // A VM's disk, which is to be there after a restart of the host: activated then, not now.
  Words words = {"lvcreate", "-s", "-prw", "-an", "--setactivationskip", "n"};
  std::ranges::copy(tags_of("volume"), std::back_inserter(words));
  words.insert(words.end(), {"-n", lvm_.lv_of(name), snapshot_id});
  TRY(lvm_.change(std::move(words)));
  return ArrayVolume{lvm_.id_of(lvm_.lv_of(name)), name, from.size_bytes, true};
}

Result<ArrayVolume> LvmThinArray::create(const std::string& name, uint64_t size_bytes) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  TRY(check_free(all, name));
  TRY(check(all));
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return lvm_.error(fmt::format("a volume of {} bytes cannot be made; give a multiple of {}",
                                  size_bytes, kSizeGranule));
  }
  Words words = {"lvcreate", "-V", fmt::format("{}b", size_bytes), "-an", "--setactivationskip",
                 "n"};
  std::ranges::copy(tags_of("volume"), std::back_inserter(words));
  words.insert(words.end(), {"-n", lvm_.lv_of(name), "--thinpool", lvm_.config().pool,
                             lvm_.config().volume_group});
  TRY(lvm_.change(std::move(words)));
  // LVM rounds up to its extents.
  const std::string id = lvm_.id_of(lvm_.lv_of(name));
  const std::vector<LvmVolume> now = TRY(lvm_.volumes());
  return ArrayVolume{id, name, TRY(volume(now, id)).size_bytes, true};
}

// LVM merges a snapshot into its volume, and the snapshot is gone: so one of the snapshot is made
// first, which takes its place.
Result<> LvmThinArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  const LvmVolume from = TRY(snapshot(all, snapshot_id));
  const LvmVolume to = TRY(volume(all, volume_id));
  if (from.tag_after(kVolumeTag) != to.name) {
    return lvm_.error(fmt::format("{} is no snapshot of {}", snapshot_id, volume_id));
  }
  if (to.open || from.open) {
    return Error{ErrorKind::kLocked, 0,
                 lvm_.error(fmt::format("{} is in use; LVM restores a volume that nobody has open",
                                        to.open ? volume_id : snapshot_id))
                     .message};
  }
  // A merge changes the volume under its older snapshots: they have no origin then.
  if (from.origin != to.name) return copy_back(from, to);
  const std::string keep = from.name + std::string(kKeep);
  if (with_id(lvm_, all, lvm_.id_of(keep)) != nullptr) {
    TRY(lvm_.change({"lvremove", "-y", "-f", lvm_.id_of(keep)}));
  }
  Words words = {"lvcreate", "-s", "-pr", "--setactivationskip", "y"};
  for (const std::string& tag : from.tags) words.insert(words.end(), {"--addtag", tag});
  words.insert(words.end(), {"-n", keep, snapshot_id});
  TRY(lvm_.change(std::move(words)));
  if (from.number != 0) TRY(lvm_.change({"lvchange", "-an", snapshot_id}));
  TRY(lvm_.change({"lvconvert", "-y", "--mergethin", snapshot_id}));
  const std::vector<LvmVolume> now = TRY(lvm_.volumes());  // settles
  if (with_id(lvm_, now, lvm_.id_of(keep)) == nullptr) return {};
  return lvm_.error(
      fmt::format("somebody has opened {} meanwhile: LVM restores it when it is "
                  "activated next",
                  volume_id));
}

Result<> LvmThinArray::copy_back(const LvmVolume& from, const LvmVolume& to) const {
  if (from.size_bytes > to.size_bytes) {
    return lvm_.error(fmt::format("{} is larger than {}, which has shrunk since: extend it first",
                                  from.name, to.name));
  }
  const auto open = [this](const LvmVolume& volume, int flags) -> Result<CowFdPtr> {
    if (volume.number == 0) {
      TRY(lvm_.change({"lvchange", "-ay", "-K", lvm_.id_of(volume.name)}));
    }
    UniqueFd fd(::open(volume.path.c_str(), flags | O_CLOEXEC));
    if (!fd.valid()) {
      const Error cause = os_error(errno, "{}", volume.path);
      return Error{cause.os_errno == EBUSY ? ErrorKind::kLocked : ErrorKind::kFailed,
                   cause.os_errno, lvm_.error(cause.message).message};
    }
    return CowFdFile::open(std::move(fd), volume.path);
  };
  Result<> copied;
  {
    const CowFdPtr source = TRY(open(from, O_RDONLY));
    const CowFdPtr target = TRY(open(to, O_RDWR | O_EXCL));
    copied = copy_differences(*source, *target, from.size_bytes);
  }
  if (!copied) return lvm_.error(copied.error().message);
  return from.number == 0 ? lvm_.change({"lvchange", "-an", lvm_.id_of(from.name)}) : Result<>();
}

Result<MappedVolume> LvmThinArray::map(const std::string& id) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  const LvmVolume found = TRY(volume(all, id));
  if (found.number == 0) TRY(lvm_.change({"lvchange", "-ay", "-K", id}));
  MappedVolume mapped{.wwn = "", .device = found.path};
  struct stat status {};
  if (::stat(found.path.c_str(), &status) != 0) {
    return lvm_.error(fmt::format("{} is active and has no device {}", id, found.path));
  }
  const Result<LunId> identity = LunResolver().identity_of(status.st_rdev);
  if (identity.ok()) mapped.wwn = identity.value().text();
  return mapped;
}

// A volume of the administrator's was active before, and stays so.
Result<> LvmThinArray::unmap(const std::string& id) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  const LvmVolume* found = with_id(lvm_, all, id);
  if (found == nullptr || found->number == 0 || lvm_.name_of(*found).empty()) return {};
  return lvm_.change({"lvchange", "-an", id});
}

Result<> LvmThinArray::remove(const std::string& id) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  const LvmVolume* found = with_id(lvm_, all, id);
  if (found == nullptr) return {};
  if (lvm_.name_of(*found).empty()) {
    return lvm_.error(fmt::format("{} was not made here, and is not removed", id));
  }
  // What a restore left beside it first: it would take its name.
  const std::string keep = id + std::string(kKeep);
  if (with_id(lvm_, all, keep) != nullptr) TRY(lvm_.change({"lvremove", "-y", "-f", keep}));
  return lvm_.change({"lvremove", "-y", "-f", id});
}

Result<std::vector<ArraySnapshot>> LvmThinArray::list_snapshots(const std::string& prefix) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  std::vector<ArraySnapshot> found;
  for (const LvmVolume& one : all) {
    const std::string name = lvm_.name_of(one);
    if (!is_array_name(name) || !name.starts_with(prefix)) continue;
    if (one.tag_after(kKindTag) != "snapshot") continue;
    found.push_back({lvm_.id_of(one.name), name, lvm_.id_of(one.tag_after(kVolumeTag)),
                     one.size_bytes, !one.has_tag(kPartialTag)});
  }
  return found;
}

Result<std::vector<ArrayVolume>> LvmThinArray::list_volumes(const std::string& prefix) {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  std::vector<ArrayVolume> found;
  for (const LvmVolume& one : all) {
    const std::string name = lvm_.name_of(one);
    if (!is_array_name(name) || !name.starts_with(prefix)) continue;
    if (one.tag_after(kKindTag) != "volume") continue;
    found.push_back({lvm_.id_of(one.name), name, one.size_bytes, true});
  }
  return found;
}

Result<ArrayCapacity> LvmThinArray::capacity() {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  const LvmVolume found = TRY(pool(all));
  const double used = std::clamp(found.data_percent / 100, 0.0, 1.0);
  const auto used_bytes = static_cast<uint64_t>(used * static_cast<double>(found.size_bytes));
  return ArrayCapacity{found.size_bytes, found.size_bytes - std::min(used_bytes, found.size_bytes)};
}

Result<> LvmThinArray::check(const std::vector<LvmVolume>& all) const {
  const LvmVolume found = TRY(pool(all));
  if (found.check_needed) return lvm_.error("its metadata needs a check; run lvconvert --repair");
  if (!found.health.empty()) return lvm_.error("LVM says: " + found.health);
  if (found.metadata_percent >= kMetadataFullPercent) {
    return lvm_.error("its metadata is full; run lvextend --poolmetadatasize, or remove snapshots");
  }
  if (found.data_percent >= 100) {
    return lvm_.error("it is full; run lvextend on it, or remove snapshots");
  }
  return {};
}

Result<> LvmThinArray::health() {
  const std::vector<LvmVolume> all = TRY(lvm_.volumes());
  return check(all);
}

}  // namespace

std::unique_ptr<ArrayProvider> make_lvm_thin_array(const LvmThinConfig& config) {
  return std::make_unique<LvmThinArray>(config);
}

}  // namespace plumb
