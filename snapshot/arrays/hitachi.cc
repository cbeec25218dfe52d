#include "snapshot/arrays/hitachi.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/secret_file.h"
#include "base/uuid.h"
#include "rdm/lun_id.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/hitachi_rest.h"
#include "snapshot/arrays/state_file.h"

namespace plumb {

// What an LDEV of plumb's is, as the state file has it.
struct HitachiEntry {
  std::string name;
  std::string label;  // of the LDEV, and of nothing else
  std::string group;  // the snapshot group of its pair
  uint64_t ldev = 0;
  bool snapshot = false;  // else a volume
  uint64_t of = 0;        // of a snapshot: the LDEV it is of
  std::string of_id;      // and its id
  uint64_t size_bytes = 0;
  bool whole = false;
  // Removed, but for the LDEV, which stays as long as there are snapshots of it. Without a name.
  bool retired = false;

  std::string id() const { return fmt::format("{}@{}", name, ldev); }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HitachiEntry, name, label, group, ldev, snapshot, of, of_id,
                                   size_bytes, whole, retired)

namespace {

using nlohmann::json;
using Entries = std::vector<HitachiEntry>;

constexpr uint64_t kSizeGranule = 4096;
// States of a pair that is not there.
constexpr const char* kCopied = "SMPL";
constexpr const char* kGone = "gone";
constexpr size_t kLabelDigits = 26;  // of 32 bytes, after "plumb-"
constexpr auto kFirstLook = std::chrono::milliseconds(10);
constexpr auto kSlowestLook = std::chrono::milliseconds(2000);

// A label, or the name of a group, that nobody else has.
Result<std::string> new_label() {
  std::string digits = TRY(Uuid::random()).text();
  std::erase(digits, '-');
  return "plumb-" + digits.substr(0, kLabelDigits);
}

// The array's LDEVs, and which of them plumb made.
class Hitachi {
 public:
  Hitachi(HitachiConfig config, const std::string& password, HostLuns host)
      : config_(std::move(config)),
        rest_(config_, password),
        host_(std::move(host)),
        file_(config_.name, config_.state_path, "hitachi") {}

  const HitachiConfig& config() const { return config_; }
  const HitachiRest& rest() const { return rest_; }
  const HostLuns& host() const { return host_; }
  Error error(const std::string& text) const { return rest_.error(text); }

  Result<Entries> entries() const { return parse(TRY(file_.read())); }
  template <typename Change>
  Result<> change(Change change_entries) const {
    StateFile::Locked locked = TRY(file_.lock());
    Entries all = TRY(parse(locked.json()));
    TRY(change_entries(all));
    locked.json()["ldevs"] = all;
    Result<> stored = locked.store();
    if (stored) return stored;
    return rest_.of_array(stored.error());
  }
  Result<> mark_whole(const std::vector<std::string>& ids) const;
  // The entry of an id; none when it is gone, or the administrator's.
  Result<std::optional<HitachiEntry>> entry(const std::string& id) const;
  Result<HitachiEntry> whole_snapshot(const std::string& id) const;

  Result<HitachiLdev> ldev(uint64_t number) const {
    return rest_.get(fmt::format("/ldevs/{}", number), hitachi_answer::ldev);
  }
  // The LDEV of a volume's id, which may be a clone.
  Result<HitachiLdev> volume(const std::string& id) const;

  // Gives the entries LDEV numbers that are free, and names that are free, and writes them down.
  Result<> reserve(Entries& fresh) const;
  // Makes the LDEV of a reserved entry.
  Result<> make(const HitachiEntry& entry) const;
  // What is there of an entry goes: paths, pair, LDEV; then the entry.
  Result<> drop(const HitachiEntry& entry) const;
  // The same, with what it kept from going, and as far as what is there of it may go.
  Result<> remove(const HitachiEntry& entry) const;

  Result<std::vector<HitachiPair>> pairs(const std::string& group) const {
    return rest_.get("/snapshots?snapshotGroupName=" + percent_encoded(group),
                     hitachi_answer::pairs);
  }
  // Until all pairs of the group with these secondary volumes are in the state. kCopied: until they
  // have gone by themselves; kGone: until they have gone, whatever became of them before.
  Result<> wait_for(const std::string& group, const std::vector<uint64_t>& secondaries,
                    const std::string& status, HitachiRest::Deadline deadline) const;

  Result<> add_paths(const HitachiLdev& ldev) const;
  Result<> remove_paths(const HitachiLdev& ldev) const;

 private:
  Result<Entries> parse(const json& state) const {
    try {
      return state.value("ldevs", Entries());
    } catch (const json::exception& cause) {
      return error(fmt::format("{} is damaged: {}", file_.path(), cause.what()));
    }
  }

  const HitachiConfig config_;
  const HitachiRest rest_;
  const HostLuns host_;
  const StateFile file_;
};

Result<> Hitachi::mark_whole(const std::vector<std::string>& ids) const {
  return change([&ids](Entries& all) -> Result<> {
    for (HitachiEntry& one : all) {
      if (std::ranges::find(ids, one.id()) != ids.end()) one.whole = true;
    }
    return {};
  });
}

Result<std::optional<HitachiEntry>> Hitachi::entry(const std::string& id) const {
  const Entries all = TRY(entries());
  const auto found = std::ranges::find(all, id, &HitachiEntry::id);
  return found == all.end() ? std::optional<HitachiEntry>() : std::optional(*found);
}

Result<HitachiEntry> Hitachi::whole_snapshot(const std::string& id) const {
  const std::optional<HitachiEntry> found = TRY(entry(id));
  if (found && found->snapshot && found->whole) return *found;
  return error(fmt::format("there is no whole snapshot {}", id));
}

Result<HitachiLdev> Hitachi::volume(const std::string& id) const {
  uint64_t number = 0;
  const auto [end, failure] = std::from_chars(id.data(), id.data() + id.size(), number);
  const bool plain = failure == std::errc() && end == id.data() + id.size();
  const std::optional<HitachiEntry> ours = TRY(entry(id));
  if (ours && !ours->whole) return error(fmt::format("{} was only begun", id));
  if (!plain && !ours) return error(fmt::format("there is no volume {}", id));
  HitachiLdev found = TRY(ldev(ours ? ours->ldev : number));
  if (found.defined && (!ours || found.label == ours->label)) return found;
  return error(fmt::format("there is no volume {}", id));
}

Result<> Hitachi::reserve(Entries& fresh) const {
  for (HitachiEntry& one : fresh) one.label = TRY(new_label());
  const std::string group = TRY(new_label());
  const auto undefined =
      TRY(rest_.get("/ldevs?ldevOption=undefined&count=1000", hitachi_answer::ldevs));
  return change([&](Entries& all) -> Result<> {
    auto free = undefined.begin();
    for (HitachiEntry& one : fresh) {
      if (std::ranges::find(all, one.name, &HitachiEntry::name) != all.end()) {
        return name_taken(config_.name, one.name);
      }
      while (free != undefined.end() &&
             std::ranges::find(all, free->number, &HitachiEntry::ldev) != all.end()) {
        ++free;
      }
      if (free == undefined.end()) return error("it has no free LDEV numbers");
      one.ldev = free->number;
      one.group = group;
      all.push_back(one);
    }
    return {};
  });
}

Result<> Hitachi::make(const HitachiEntry& entry) const {
  const json body = {{"ldevId", entry.ldev},
                     {"poolId", config_.volume_pool},
                     {"blockCapacity", entry.size_bytes / 512}};
  TRY(rest_.send("POST", "/ldevs", body, rest_.soon()));
  return rest_.send("PATCH", fmt::format("/ldevs/{}", entry.ldev), {{"label", entry.label}},
                    rest_.soon());
}

Result<> Hitachi::drop(const HitachiEntry& entry) const {
  const HitachiLdev found = TRY(ldev(entry.ldev));
  const bool ours = found.defined && found.label == entry.label;
  if (found.defined && !ours && found.label.empty()) {
    return error(fmt::format(
        "LDEV {} should be {}, and has no label: if nobody uses it, set its label to {} and try "
        "again",
        entry.ldev, entry.name, entry.label));
  }
  if (ours) {
    TRY(remove_paths(found));
    for (const HitachiPair& pair : TRY(pairs(entry.group))) {
      if (!pair.has_secondary || pair.secondary != entry.ldev) continue;
      TRY(rest_.send("DELETE", fmt::format("/snapshots/{},{}", pair.primary, pair.mirror_unit),
                     nullptr, rest_.soon()));
    }
    TRY(wait_for(entry.group, {entry.ldev}, kGone, rest_.soon()));
    TRY(rest_.send("DELETE", fmt::format("/ldevs/{}", entry.ldev), nullptr, rest_.soon()));
  }
  return change([&entry](Entries& all) -> Result<> {
    std::erase_if(all, [&entry](const HitachiEntry& one) { return one.label == entry.label; });
    return {};
  });
}

Result<> Hitachi::remove(const HitachiEntry& entry) const {
  const auto has_snapshots = [](const Entries& all, uint64_t ldev) {
    return std::ranges::any_of(
        all, [ldev](const HitachiEntry& one) { return one.snapshot && one.of == ldev; });
  };
  if (has_snapshots(TRY(entries()), entry.ldev)) {
    TRY(remove_paths(TRY(ldev(entry.ldev))));
    return change([&entry](Entries& all) -> Result<> {
      for (HitachiEntry& one : all) {
        if (one.label != entry.label) continue;
        one.name.clear();
        one.retired = true;
      }
      return {};
    });
  }
  TRY(drop(entry));
  const Entries left = TRY(entries());
  for (const HitachiEntry& one : left) {
    if (one.retired && !has_snapshots(left, one.ldev)) TRY(drop(one));
  }
  return {};
}

Result<> Hitachi::wait_for(const std::string& group, const std::vector<uint64_t>& secondaries,
                           const std::string& status, HitachiRest::Deadline deadline) const {
  using Clock = std::chrono::steady_clock;
  const bool leaving = status == kCopied || status == kGone;
  for (Clock::duration pause = kFirstLook;;
       pause = std::min<Clock::duration>(2 * pause, kSlowestLook)) {
    size_t there = 0;
    size_t good = 0;
    for (const HitachiPair& pair : TRY(pairs(group))) {
      if (std::ranges::find(secondaries, pair.secondary) == secondaries.end()) continue;
      ++there;
      good += pair.status == status ? 1 : 0;
      if (pair.status != "PSUE" || status == kGone) continue;
      return error(
          fmt::format("the pair of LDEV {} and {} failed (PSUE)", pair.primary, pair.secondary));
    }
    if (leaving ? there == 0 : good == secondaries.size()) return {};
    if (Clock::now() + pause >= deadline) {
      return error(fmt::format("the pairs of group {} are not {} in time", group, status));
    }
    std::this_thread::sleep_for(pause);
  }
}

Result<> Hitachi::add_paths(const HitachiLdev& ldev) const {
  for (const HitachiHostGroup& group : config_.host_groups) {
    const bool there = std::ranges::any_of(ldev.paths, [&group](const HitachiPath& path) {
      return path.port == group.port && path.host_group == group.number;
    });
    if (there) continue;
    const json body = {
        {"portId", group.port}, {"hostGroupNumber", group.number}, {"ldevId", ldev.number}};
    TRY(rest_.send("POST", "/luns", body, rest_.soon()));
  }
  return {};
}

Result<> Hitachi::remove_paths(const HitachiLdev& ldev) const {
  if (!ldev.wwn.empty()) {
    Result<> gone = host_.vanish(TRY(LunId::parse(ldev.wwn)));
    if (!gone) return rest_.of_array(gone.error());
  }
  for (const HitachiPath& path : ldev.paths) {
    Result<> removed = rest_.send(
        "DELETE",
        fmt::format("/luns/{},{},{}", percent_encoded(path.port), path.host_group, path.lun),
        nullptr, rest_.soon());
    if (!removed && removed.error().kind != ErrorKind::kNotFound) return removed;
  }
  return {};
}

class PreparedHitachi final : public PreparedSnapshot {
 public:
  PreparedHitachi(const Hitachi& hitachi, Entries entries)
      : hitachi_(hitachi), entries_(std::move(entries)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedHitachi() override {
    if (finished_) return;
    for (const HitachiEntry& one : entries_) static_cast<void>(hitachi_.drop(one).ok());
  }

  // Volumes and pairs, so that the split is all that is left.
  Result<> pair_up() const {
    for (const HitachiEntry& one : entries_) {
      TRY(hitachi_.make(one));
      const json body = {{"snapshotGroupName", one.group},
                         {"snapshotPoolId", hitachi_.config().snapshot_pool},
                         {"pvolLdevId", one.of},
                         {"svolLdevId", one.ldev},
                         {"isConsistencyGroup", true},
                         {"canCascade", true},
                         {"isDataReductionForceCopy", true}};
      TRY(hitachi_.rest().send("POST", "/snapshots", body, hitachi_.rest().soon()));
    }
    return hitachi_.wait_for(group(), ldevs(), "PAIR", hitachi_.rest().soon());
  }

  Result<> take() override {
    return hitachi_.rest().send("POST", "/snapshot-groups/" + group() + "/actions/split/invoke",
                                nullptr, HitachiRest::in(hitachi_.config().take_timeout_ms));
  }

  Result<std::vector<ArraySnapshot>> finish() override {
    TRY(hitachi_.wait_for(group(), ldevs(), "PSUS", hitachi_.rest().soon()));
    std::vector<ArraySnapshot> made;
    std::vector<std::string> ids;
    for (const HitachiEntry& one : entries_) {
      made.push_back({one.id(), one.name, one.of_id, one.size_bytes, true});
      ids.push_back(one.id());
    }
    TRY(hitachi_.mark_whole(ids));
    finished_ = true;
    return made;
  }

 private:
  const std::string& group() const { return entries_.front().group; }
  std::vector<uint64_t> ldevs() const {
    std::vector<uint64_t> all;
    for (const HitachiEntry& one : entries_) all.push_back(one.ldev);
    return all;
  }

  const Hitachi& hitachi_;
  const Entries entries_;
  bool finished_ = false;
};

class HitachiArray final : public ArrayProvider {
 public:
  HitachiArray(const HitachiConfig& config, const std::string& password, HostLuns host)
      : hitachi_(config, password, std::move(host)) {}

  const std::string& name() const override { return hitachi_.config().name; }
  Abilities abilities() const override {
    return {.group = true, .instant = true, .provisions = true, .writable_snapshots = true};
  }

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
  Result<HitachiPool> pool(unsigned number) const {
    return hitachi_.rest().get(fmt::format("/pools/{}", number), hitachi_answer::pool);
  }
  // Reserves, makes and fills one volume; what fails leaves nothing.
  Result<ArrayVolume> new_volume(HitachiEntry entry,
                                 const std::function<Result<>(const HitachiEntry&)>& fill) const;

  const Hitachi hitachi_;
};

// The last four digits of an identity are the LDEV's number; that it is that LDEV's the array says.
Result<std::optional<ArrayVolume>> HitachiArray::find(const DiskMedium& medium) {
  constexpr std::string_view kOurs = "naa.60060e8";
  constexpr size_t kDigits = 4;
  if (!medium.wwn.starts_with(kOurs) || medium.wwn.size() != 36) {
    return std::optional<ArrayVolume>();
  }
  uint64_t number = 0;
  const char* end = medium.wwn.data() + medium.wwn.size();
  std::from_chars(end - kDigits, end, number, 16);
  Result<HitachiLdev> found = hitachi_.ldev(number);
  if (!found && found.error().kind == ErrorKind::kNotFound) return std::optional<ArrayVolume>();
  if (!found) return std::move(found).error();
  if (!found->defined || found->wwn != medium.wwn) return std::optional<ArrayVolume>();
  for (const HitachiEntry& one : TRY(hitachi_.entries())) {
    if (one.ldev != number || one.label != found->label) continue;
    return std::optional<ArrayVolume>({one.id(), one.name, found->size_bytes, one.whole});
  }
  const std::string id = std::to_string(number);
  return std::optional<ArrayVolume>(
      {id, found->label.empty() ? id : found->label, found->size_bytes, true});
}

Result<std::unique_ptr<PreparedSnapshot>> HitachiArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  Entries entries;
  for (const SnapshotRequest& request : requests) {
    const HitachiLdev of = TRY(hitachi_.volume(request.volume.id));
    entries.push_back({.name = request.name,
                       .label = {},
                       .group = {},
                       .snapshot = true,
                       .of = of.number,
                       .of_id = request.volume.id,
                       .size_bytes = of.size_bytes});
  }
  TRY(hitachi_.reserve(entries));
  auto prepared = std::make_unique<PreparedHitachi>(hitachi_, std::move(entries));
  TRY(prepared->pair_up());
  return prepared;
}

Result<ArrayVolume> HitachiArray::new_volume(
    HitachiEntry entry, const std::function<Result<>(const HitachiEntry&)>& fill) const {
  Entries entries = {std::move(entry)};
  TRY(hitachi_.reserve(entries));
  const HitachiEntry& made = entries.front();
  Result<> filled = hitachi_.make(made);
  if (filled) filled = fill(made);
  if (filled) filled = hitachi_.mark_whole({made.id()});
  if (filled) return ArrayVolume{made.id(), made.name, made.size_bytes, true};
  static_cast<void>(hitachi_.drop(made).ok());
  return std::move(filled).error();
}

Result<ArrayVolume> HitachiArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(this->name(), name));
  const HitachiEntry from = TRY(hitachi_.whole_snapshot(snapshot_id));
  const HitachiEntry entry{
      .name = name, .label = {}, .group = {}, .of_id = {}, .size_bytes = from.size_bytes};
  return new_volume(entry, [&](const HitachiEntry& to) -> Result<> {
    const json body = {{"snapshotGroupName", to.group},
                       {"snapshotPoolId", hitachi_.config().snapshot_pool},
                       {"pvolLdevId", from.ldev},
                       {"svolLdevId", to.ldev},
                       {"isClone", true},
                       {"clonesAutomation", true},
                       {"copySpeed", "medium"},
                       {"isDataReductionForceCopy", true}};
    TRY(hitachi_.rest().send("POST", "/snapshots", body, hitachi_.rest().soon()));
    return hitachi_.wait_for(to.group, {to.ldev}, kCopied,
                             HitachiRest::in(hitachi_.config().copy_timeout_ms));
  });
}

Result<ArrayVolume> HitachiArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(this->name(), name));
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return hitachi_.error(fmt::format("a volume of {} bytes cannot be made; give a multiple of {}",
                                      size_bytes, kSizeGranule));
  }
  const HitachiEntry entry{
      .name = name, .label = {}, .group = {}, .of_id = {}, .size_bytes = size_bytes};
  return new_volume(entry, [](const HitachiEntry&) { return Result<>(); });
}

Result<> HitachiArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const HitachiEntry from = TRY(hitachi_.whole_snapshot(snapshot_id));
  const HitachiLdev to = TRY(hitachi_.volume(volume_id));
  if (from.of_id != volume_id || from.of != to.number) {
    return hitachi_.error(fmt::format("{} is no snapshot of {}", snapshot_id, volume_id));
  }
  for (const HitachiPair& pair : TRY(hitachi_.pairs(from.group))) {
    if (!pair.has_secondary || pair.secondary != from.ldev) continue;
    // Split again when it is done: the snapshot stays.
    TRY(hitachi_.rest().send(
        "POST",
        fmt::format("/snapshots/{},{}/actions/restore/invoke", pair.primary, pair.mirror_unit),
        {{"parameters", {{"autoSplit", true}}}}, hitachi_.rest().soon()));
    TRY(hitachi_.wait_for(from.group, {from.ldev}, "PSUS",
                          HitachiRest::in(hitachi_.config().copy_timeout_ms)));
    if (!to.wwn.empty()) hitachi_.host().forget_content(TRY(LunId::parse(to.wwn)));
    return {};
  }
  return hitachi_.error(fmt::format("the pair of {} is not there any more", snapshot_id));
}

Result<MappedVolume> HitachiArray::map(const std::string& id) {
  const HitachiLdev ldev = TRY(hitachi_.volume(id));
  if (ldev.wwn.empty()) {
    return hitachi_.error(fmt::format("it does not tell the identity of LDEV {}", ldev.number));
  }
  TRY(hitachi_.add_paths(ldev));
  Result<std::string> device = hitachi_.host().appear(TRY(LunId::parse(ldev.wwn)));
  if (!device) return hitachi_.rest().of_array(device.error());
  return MappedVolume{ldev.wwn, std::move(*device)};
}

// An LDEV of the administrator's was mapped before, and stays so.
Result<> HitachiArray::unmap(const std::string& id) {
  const std::optional<HitachiEntry> ours = TRY(hitachi_.entry(id));
  if (!ours) return {};
  const HitachiLdev ldev = TRY(hitachi_.ldev(ours->ldev));
  if (!ldev.defined || ldev.label != ours->label) return {};
  return hitachi_.remove_paths(ldev);
}

Result<> HitachiArray::remove(const std::string& id) {
  const std::optional<HitachiEntry> ours = TRY(hitachi_.entry(id));
  if (ours) return hitachi_.remove(*ours);
  if (id.find('@') != std::string::npos) return {};
  return hitachi_.error(fmt::format("LDEV {} was not made here, and is not removed", id));
}

Result<std::vector<ArraySnapshot>> HitachiArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> found;
  for (const HitachiEntry& one : TRY(hitachi_.entries())) {
    if (!one.snapshot || !one.name.starts_with(prefix)) continue;
    found.push_back({one.id(), one.name, one.of_id, one.size_bytes, one.whole});
  }
  return found;
}

Result<std::vector<ArrayVolume>> HitachiArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> found;
  for (const HitachiEntry& one : TRY(hitachi_.entries())) {
    if (one.snapshot || one.retired || !one.name.starts_with(prefix)) continue;
    found.push_back({one.id(), one.name, one.size_bytes, one.whole});
  }
  return found;
}

Result<ArrayCapacity> HitachiArray::capacity() {
  const HitachiPool found = TRY(pool(hitachi_.config().volume_pool));
  return ArrayCapacity{found.total_bytes, found.free_bytes};
}

Result<> HitachiArray::health() {
  for (const unsigned number : {hitachi_.config().volume_pool, hitachi_.config().snapshot_pool}) {
    const HitachiPool found = TRY(pool(number));
    if (found.status == "POLN" && found.free_bytes != 0) continue;
    return hitachi_.error(fmt::format("pool {} is not well ({}, {} bytes free)", number,
                                      found.status, found.free_bytes));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<ArrayProvider>> open_hitachi_array(const HitachiConfig& config,
                                                          HostLuns host) {
  Result<std::string> password = read_secret(config.password_file);
  if (!password) return failed("array {}: {}", config.name, password.error().message);
  return std::make_unique<HitachiArray>(config, *password, std::move(host));
}

}  // namespace plumb
