#include "snapshot/revert_run.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/uuid.h"
#include "blockdev/image_file.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"
#include "snapshot/snapshot_plan.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

bool is_on_this_host(const LunResolver& resolver, const LunId& id) {
  const std::vector<Lun> luns = resolver.list();
  return std::ranges::find(luns, id, &Lun::id) != luns.end();
}

// Where a recorded LUN is now, by which its array may know it; "" when it is not on this host.
Result<std::string> device_now(const std::string& wwn) {
  const LunResolver resolver;
  const LunId id = TRY(LunId::parse(wwn));
  if (!is_on_this_host(resolver, id)) return std::string();
  return resolver.device_path(TRY(resolver.resolve(id)));
}

// The definition that is known last, with the disks that are kept and no others: what is made of
// the snapshot has no disk of somebody else's.
Json definition_of(const SnapshotMember& member, const SnapshotStore& store,
                   const std::vector<SnapshotDisk>& disks) {
  Json definition = member.definition;
  if (Result<SnapshotSet> last = store.get(store.head_of(member.vm)); last.ok()) {
    const SnapshotMember* known = last->find(member.vm);
    if (known != nullptr && !known->definition.contains("libvirt")) definition = known->definition;
  }
  if (!definition.contains("disks") || !definition["disks"].is_array()) return definition;
  Json kept = Json::array();
  for (const Json& disk : definition["disks"]) {
    const bool is_kept = std::ranges::any_of(disks, [&disk](const SnapshotDisk& one) {
      return disk.is_object() && disk.contains("id") && disk["id"] == one.id;
    });
    if (is_kept) kept.push_back(disk);
  }
  definition["disks"] = kept;
  return definition;
}

Result<PlannedDisk> planned(const RevertDisk& disk, ArraySet& arrays, const std::string& unique) {
  ArrayProvider* array = TRY(arrays.get(disk.disk.array));
  DiskMedium medium = disk.disk.source;
  if (!medium.wwn.empty()) medium.device = TRY(device_now(medium.wwn));
  Result<std::optional<ArrayVolume>> volume = array->find(medium);
  if (!volume) return array_error(std::move(volume).error());
  if (!*volume || (*volume)->id != disk.disk.volume_id) {
    return array_error(failed("disk {} of VM '{}' is not {} of array {} any more", disk.disk.id,
                              disk.vm, disk.disk.volume_id, disk.disk.array));
  }
  return PlannedDisk{.id = disk.disk.id,
                     .medium = std::move(medium),
                     .array = disk.disk.array,
                     .volume = std::move(**volume),
                     .name = array_name_of(unique, disk.vm, disk.disk.id),
                     .read_only = disk.read_only};
}

Result<SnapshotPlan> plan_to_keep(const RevertPlan& plan, const SnapshotStore& store,
                                  ArraySet& arrays) {
  const std::string unique = TRY(Uuid::random()).text();
  SnapshotPlan made{.id = plan.kept, .quiesce = Grade::kCrash, .members = {}};
  for (const SnapshotMember& member : plan.members) {
    PlannedMember& one = made.members.emplace_back();
    one.vm = member.vm;
    one.parent = store.head_of(member.vm);
    std::vector<SnapshotDisk> kept;
    for (const RevertDisk& disk : plan.disks) {
      if (disk.vm != member.vm) continue;
      one.disks.push_back(TRY(planned(disk, arrays, unique)));
      kept.push_back(disk.disk);
    }
    one.definition = definition_of(member, store, kept);
  }
  return made;
}

// The copies of one array, in the order of `made`.
Result<std::vector<ArraySnapshot>> copy_in(ArrayProvider& array, const SnapshotPlan& made) {
  std::vector<ArrayProvider::SnapshotRequest> requests;
  for (const PlannedMember& member : made.members) {
    for (const PlannedDisk& disk : member.disks) {
      if (disk.array == array.name()) requests.push_back({disk.volume, disk.name});
    }
  }
  const auto prepared = TRY(array.prepare(requests));
  TRY(prepared->take());
  return prepared->finish();
}

Result<std::vector<ArraySnapshot>> copy_all(const SnapshotPlan& made, ArraySet& arrays) {
  std::vector<ArraySnapshot> all;
  for (const std::string& name : made.arrays()) {
    ArrayProvider* array = TRY(arrays.get(name));
    Result<std::vector<ArraySnapshot>> copies = copy_in(*array, made);
    if (!copies) return array_error(std::move(copies).error());
    std::ranges::move(*copies, std::back_inserter(all));
  }
  return all;
}

SnapshotSet record_of(const SnapshotPlan& made, const std::vector<ArraySnapshot>& copies,
                      const std::string& note) {
  SnapshotSet set{.id = made.id,
                  .taken_at = utc_text(std::chrono::system_clock::now()),
                  .note = note,
                  .asked = Grade::kCrash,
                  .members = {}};
  for (const PlannedMember& planned : made.members) {
    SnapshotMember& member = set.members.emplace_back();
    member.vm = planned.vm;
    member.parent = planned.parent;
    member.definition = planned.definition;
    for (const PlannedDisk& disk : planned.disks) {
      const auto copy = std::ranges::find(copies, disk.name, &ArraySnapshot::name);
      ENSURE(copy != copies.end());
      member.disks.push_back({.id = disk.id,
                              .source = disk.medium,
                              .array = disk.array,
                              .volume_id = disk.volume.id,
                              .snapshot_id = copy->id});
    }
  }
  return set;
}

// Nobody else keeps what is overwritten while the disks are claimed; in the end those are asked
// again that run.
class AtRest {
 public:
  AtRest(OverlayArray* overlays, const DiskClaims& claims) : overlays_(overlays) {
    if (overlays_ == nullptr) return;
    former_ = overlays_->exchange_vms(
        {.keep = [this, &claims](const std::vector<OverlayArray::Kept>& disks) -> Result<> {
           for (const OverlayArray::Kept& disk : disks) {
             const bool image = disk.disk.starts_with('/');
             const int fd =
                 claims.fd_of(image ? disk_identity(disk.disk, "") : disk_identity("", disk.disk));
             if (fd < 0) return failed("{} is not on this host", disk.disk);
             TRY(overlays_->keep_at_rest(disk, fd));
           }
           return {};
         },
         .let_go = [](const std::string& disk, const std::string&) -> Result<> {
           return failed("{} is at rest", disk);
         }});
  }
  ~AtRest() {
    if (overlays_ != nullptr) overlays_->exchange_vms(std::move(former_));
  }
  AtRest(const AtRest&) = delete;
  AtRest& operator=(const AtRest&) = delete;

 private:
  OverlayArray* overlays_;
  OverlayArray::Vms former_;
};

Result<> restore_one(const RevertJournal::Disk& disk, const std::string& snapshot_id,
                     ArraySet& arrays, DiskClaims& claims) {
  ArrayProvider* array = TRY(arrays.get(disk.array));
  const bool free = array->abilities().claims;
  if (free) claims.release(disk.identity);
  Result<> restored = array->restore(snapshot_id, disk.volume_id);
  if (!restored) return array_error(std::move(restored).error());
  return free ? claims.claim_again(disk.identity) : Result<>();
}

}  // namespace

Result<> DiskClaims::claim(const std::string& identity, bool read_only) {
  if (std::ranges::find(claims_, identity, &Claim::identity) != claims_.end()) return {};
  Claim made{identity, UniqueFd(), read_only};
  TRY(open(made));
  claims_.push_back(std::move(made));
  return {};
}

Result<> DiskClaims::open(Claim& claim) {
  if (claim.identity.starts_with('/')) {
    claim.fd = TRY(open_image_file({.path = claim.identity, .read_only = claim.read_only}));
    return {};
  }
  const LunResolver resolver;
  const LunId id = TRY(LunId::parse(claim.identity));
  if (!is_on_this_host(resolver, id)) return {};
  // The VM that has used it was allowed to, by whatever identity.
  const ClaimOptions options{.read_only = claim.read_only, .allow_weak_identity = true};
  claim.fd = TRY(claim_lun(resolver, id, options)).fd;
  return {};
}

void DiskClaims::release(const std::string& identity) {
  for (Claim& claim : claims_) {
    if (claim.identity == identity) claim.fd.reset();
  }
}

Result<> DiskClaims::claim_again(const std::string& identity) {
  for (Claim& claim : claims_) {
    if (claim.identity == identity && !claim.fd) TRY(open(claim));
  }
  return {};
}

int DiskClaims::fd_of(const std::string& identity) const {
  const auto claim = std::ranges::find(claims_, identity, &Claim::identity);
  return claim == claims_.end() ? -1 : claim->fd.get();
}

Result<SnapshotSet> keep_present(const RevertPlan& plan, const SnapshotStore& store,
                                 ArraySet& arrays, const DiskClaims& claims) {
  const SnapshotPlan made = TRY(plan_to_keep(plan, store, arrays));
  const AtRest at_rest(arrays.overlays(), claims);
  SnapshotJournal journal = TRY(store.begin(made.id, journal_of(made)));
  Result<std::vector<ArraySnapshot>> copies = copy_all(made, arrays);
  if (copies) {
    const SnapshotSet set = record_of(made, *copies, "before the revert to " + plan.to);
    Result<> added = store.add(set);
    if (added) {
      TRY(journal.remove());
      return set;
    }
    copies = std::move(added).error();
  }
  if (remove_made(arrays, journal.content())) static_cast<void>(journal.remove());
  return std::move(copies).error();
}

Result<> restore_disks(const RevertJournal& journal, ArraySet& arrays, DiskClaims& claims,
                       size_t& restored, const std::function<void()>& step) {
  for (const RevertJournal::Disk& disk : journal.disks) {
    ++restored;
    TRY(restore_one(disk, disk.snapshot_id, arrays, claims));
    step();
  }
  return {};
}

Result<> go_back(const RevertJournal& journal, ArraySet& arrays, DiskClaims& claims, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const RevertJournal::Disk& disk = journal.disks[i];
    TRY(restore_one(disk, disk.kept_id, arrays, claims));
  }
  return {};
}

}  // namespace plumb
