#include "snapshot/revert.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <utility>

#include "base/uuid.h"
#include "snapshot/revert_run.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// A record's definition is whatever was written there; "" for what is no text.
std::string text_at(const Json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

bool is_read_only(const SnapshotMember& member, const std::string& disk) {
  const auto disks = member.definition.find("disks");
  if (disks == member.definition.end()) return false;
  return std::ranges::any_of(*disks, [&](const Json& one) {
    return text_at(one, "id") == disk && one.contains("read_only") && one["read_only"] == true;
  });
}

Result<> add_member(const SnapshotMember& member, const RevertRequest& request, RevertPlan& plan) {
  const size_t before = plan.disks.size();
  for (const SnapshotDisk& disk : member.disks) {
    const bool named = std::ranges::find(request.disks, disk.id) != request.disks.end();
    if (!request.disks.empty() && !named) continue;
    const bool read_only = is_read_only(member, disk.id);
    if (read_only && named) {
      return usage_error("disk {} is read-only for VM '{}', which has not changed it; leave it out",
                         disk.id, member.vm);
    }
    if (read_only) {
      plan.left_out.push_back(fmt::format("disk {} of {} stays as it is: its VM cannot write to it",
                                          disk.id, member.vm));
    }
    plan.disks.push_back(
        {member.vm, disk_identity(disk.source.image, disk.source.wwn), disk, read_only});
  }
  for (const std::string& disk : request.disks) {
    if (std::ranges::find(member.disks, disk, &SnapshotDisk::id) != member.disks.end()) continue;
    return make_error(ErrorKind::kNotFound,
                      "snapshot {} has no disk '{}' of VM '{}'; see `plumb snapshot show {}`",
                      plan.to, disk, member.vm, plan.to);
  }
  if (plan.disks.size() == before) {
    return usage_error("snapshot {} has no disk of VM '{}'", plan.to, member.vm);
  }
  plan.members.push_back(member);
  return {};
}

Result<> add_members(const SnapshotSet& set, const RevertRequest& request, RevertPlan& plan) {
  if (!request.disks.empty() && request.vm.empty() && set.members.size() > 1) {
    return usage_error("snapshot {} is of {} VMs; say of which one the disks are, with --vm",
                       set.id, set.members.size());
  }
  if (!request.vm.empty() && set.find(request.vm) == nullptr) {
    return make_error(ErrorKind::kNotFound, "snapshot {} has no VM '{}'", set.id, request.vm);
  }
  for (const SnapshotMember& member : set.members) {
    if (!request.vm.empty() && member.vm != request.vm) continue;
    if (member.definition.contains("libvirt")) {
      return usage_error(
          "snapshot {} is of a guest of libvirt, which plumb does not put back: shut '{}' off, and "
          "copy the disks that `plumb snapshot map` shows over its own",
          set.id, member.vm);
    }
    TRY(add_member(member, request, plan));
  }
  if (std::ranges::all_of(plan.disks, &RevertDisk::read_only)) {
    return usage_error("no VM can write to a disk of snapshot {}, which are as they were", set.id);
  }
  return {};
}

// "shop" of "shop-20261122-190705"; the id itself when it is of another form.
std::string name_in(const std::string& id) {
  constexpr size_t kTimeBytes = 16;
  const size_t at = id.size() - std::min(id.size(), kTimeBytes);
  const bool timed = at > 0 && id[at] == '-' && id[at + 9] == '-';
  return timed ? id.substr(0, at) : id.substr(0, kMaxIdBytes - 2 * kTimeBytes);
}

Result<> check_copies(const RevertPlan& plan, ArraySet& arrays) {
  for (const RevertDisk& disk : plan.disks) {
    if (disk.read_only) continue;
    ArrayProvider* array = TRY(arrays.get(disk.disk.array));
    Result<std::vector<ArraySnapshot>> copies = array->list_snapshots("");
    if (!copies) return array_error(std::move(copies).error());
    const auto copy = std::ranges::find(*copies, disk.disk.snapshot_id, &ArraySnapshot::id);
    if (copy != copies->end() && copy->whole) continue;
    return array_error(failed("the copy of disk {} of VM '{}' in snapshot {} is {} in array {}",
                              disk.disk.id, disk.vm, plan.to,
                              copy == copies->end() ? "not there" : "not whole", disk.disk.array));
  }
  return {};
}

bool has_all_of(const RevertPlan& plan, const RevertJournal& journal) {
  return std::ranges::all_of(journal.disks, [&](const RevertJournal::Disk& disk) {
    const auto own = std::ranges::find(plan.disks, disk.identity, &RevertDisk::identity);
    return own != plan.disks.end() && !own->read_only;
  });
}

// What the guest is to see afterwards, in place of all that it may have seen by now.
Result<RevertJournal::Vm> renewed(const SnapshotMember& member, const SnapshotStore& store,
                                  const std::string& generations) {
  RevertJournal::Vm vm;
  vm.name = member.vm;
  vm.uuid = TRY(Uuid::parse(text_at(member.definition, "uuid"))).text();
  vm.generation.id = TRY(Uuid::random()).text();
  std::set<std::string> seen;
  if (const auto present = TRY(read_generation(generations, vm.uuid))) {
    seen.insert(present->in_place_of.begin(), present->in_place_of.end());
    seen.insert(present->id);
  }
  for (const SnapshotSet& set : store.list().sets) {
    for (const SnapshotMember& one : set.members) {
      if (text_at(one.definition, "uuid") != vm.uuid) continue;
      const Result<Uuid> id = Uuid::parse(text_at(one.definition, "generation_id"));
      if (id.ok()) seen.insert(id.value().text());
    }
  }
  vm.generation.in_place_of.assign(seen.begin(), seen.end());
  return vm;
}

Result<RevertJournal> journal_for(const RevertPlan& plan, const SnapshotSet* kept,
                                  const SnapshotStore& store, const std::string& generations) {
  RevertJournal journal;
  journal.to = plan.to;
  journal.kept = kept == nullptr ? "" : kept->id;
  for (const SnapshotMember& member : plan.members) {
    journal.vms.push_back(TRY(renewed(member, store, generations)));
  }
  for (const RevertDisk& disk : plan.disks) {
    if (disk.read_only) continue;
    RevertJournal::Disk& one = journal.disks.emplace_back();
    one = {.vm = disk.vm,
           .id = disk.disk.id,
           .identity = disk.identity,
           .array = disk.disk.array,
           .volume_id = disk.disk.volume_id,
           .snapshot_id = disk.disk.snapshot_id,
           .kept_id = ""};
    if (kept == nullptr) continue;
    const SnapshotMember* member = kept->find(disk.vm);
    ENSURE(member != nullptr);
    const auto copy = std::ranges::find(member->disks, disk.disk.id, &SnapshotDisk::id);
    ENSURE(copy != member->disks.end());
    one.kept_id = copy->snapshot_id;
  }
  return journal;
}

// The last steps, which may be repeated.
Result<> renew(const RevertJournal& journal, const SnapshotStore& store,
               const std::string& generations) {
  for (const RevertJournal::Vm& vm : journal.vms) {
    TRY(store.note_revert(vm.name, journal.to));
    TRY(write_generation(generations, vm.uuid, vm.generation));
  }
  return {};
}

std::string names_of(const RevertJournal& journal) {
  std::string names;
  for (const RevertJournal::Vm& vm : journal.vms) names += (names.empty() ? "" : ", ") + vm.name;
  return names;
}

// The journals of commands that run no more, locked for us.
std::vector<SnapshotJournal> left_over_reverts(const SnapshotStore& store) {
  std::vector<SnapshotJournal> all = store.left_over();
  std::erase_if(all, [](const SnapshotJournal& one) { return !is_revert(one.content()); });
  return all;
}

// Those whose disks are all among the plan's, which takes their place: one that cannot be finished
// is no end. Error kLocked: another one has a disk of the plan.
Result<std::vector<SnapshotJournal>> take_over(const RevertPlan& plan, const SnapshotStore& store) {
  std::vector<SnapshotJournal> ours;
  for (SnapshotJournal& journal : left_over_reverts(store)) {
    const RevertJournal content = TRY(revert_from_json(journal.content(), journal.id()));
    if (has_all_of(plan, content)) ours.push_back(std::move(journal));
  }
  size_t met = 0;
  for (const RevertJournal& journal : TRY(unfinished_reverts(store.journals()))) {
    met += std::ranges::any_of(journal.disks, [&](const RevertJournal::Disk& disk) {
      return std::ranges::find(plan.disks, disk.identity, &RevertDisk::identity) !=
             plan.disks.end();
    });
  }
  if (met == ours.size()) return ours;
  for (const RevertDisk& disk : plan.disks) {
    TRY(check_not_reverting(store.journals(), disk.identity,
                            fmt::format("disk {} of VM '{}'", disk.disk.id, disk.vm)));
  }
  return ours;  // the other one has just been finished
}

Result<> finish(const SnapshotJournal& journal, const SnapshotStore& store, ArraySet& arrays,
                const std::string& generations) {
  const RevertJournal content = TRY(revert_from_json(journal.content(), journal.id()));
  DiskClaims claims;
  for (const RevertJournal::Disk& disk : content.disks) TRY(claims.claim(disk.identity, false));
  size_t restored = 0;
  TRY(restore_disks(content, arrays, claims, restored, [] {}));
  return renew(content, store, generations);
}

class RevertUnderWay {
 public:
  RevertUnderWay(const Reverter::Config& config, RevertPlan plan)
      : config_(config), store_(*config.store), arrays_(*config.arrays), plan_(std::move(plan)) {}

  Result<RevertOutcome> run() {
    for (const RevertDisk& disk : plan_.disks) {
      TRY(claims_.claim(disk.identity, disk.read_only));
    }
    // Now that the disks are ours no other revert begins.
    superseded_ = TRY(take_over(plan_, store_));
    TRY(step("revert-planned"));
    if (!plan_.kept.empty()) kept_ = TRY(keep_present(plan_, store_, arrays_, claims_));
    Result<SnapshotJournal> journal = begin();
    if (!journal) return give_up(std::move(journal).error());
    return go_on(*journal);
  }

 private:
  Result<SnapshotJournal> begin() {
    if (kept_) TRY(step("revert-kept"));
    outcome_.done = TRY(journal_for(plan_, kept_ ? &*kept_ : nullptr, store_, config_.generations));
    // An id that no snapshot has: other journals are kept there too.
    return store_.begin("revert-" + TRY(Uuid::random()).text(), revert_to_json(outcome_.done));
  }

  Result<RevertOutcome> go_on(SnapshotJournal& journal) {
    for (SnapshotJournal& one : superseded_) TRY(one.remove());
    late_step("revert-journalled");
    size_t restored = 0;
    Result<> done = restore_disks(outcome_.done, arrays_, claims_, restored,
                                  [this] { late_step("revert-restored"); });
    if (!done) return turn_back(std::move(done).error(), journal, restored);
    Result<> finished = renew(outcome_.done, store_, config_.generations);
    if (finished) late_step("revert-renewed");
    if (finished) finished = journal.remove();
    if (!finished) return unfinished(std::move(finished).error());
    late_step("revert-done");
    return std::move(outcome_);
  }

  // Nothing was changed but that the present state is kept.
  Error give_up(Error error) {
    if (!kept_) return error;
    if (Result<> removed = remove_recorded(store_, arrays_, *kept_); !removed) {
      error.message += fmt::format("; snapshot {} stays: {}", kept_->id, removed.error().message);
    }
    return error;
  }

  Error turn_back(Error error, SnapshotJournal& journal, size_t restored) {
    if (!kept_) return unfinished(std::move(error));
    Result<> back = go_back(outcome_.done, arrays_, claims_, restored);
    if (back) back = journal.remove();
    if (!back) return unfinished(std::move(error));
    error.message += "; the disks have what they had before, and nothing was changed";
    return give_up(std::move(error));
  }

  Error unfinished(Error error) const {
    error.message += fmt::format(
        "; the revert to {} is not finished, and until it is, no VM starts with these disks: try "
        "again with `plumb snapshot recover`, or revert to another snapshot",
        plan_.to);
    return error;
  }

  Result<> step(const char* phase) {
    if (config_.interrupted && config_.interrupted()) return failed("{}", kInterrupted);
    return config_.hook ? config_.hook(phase, plan_) : Result<>();
  }
  void late_step(const char* phase) {
    if (!config_.hook) return;
    Result<> done = config_.hook(phase, plan_);
    if (!done) outcome_.warnings.push_back(done.error().message);
  }

  const Reverter::Config& config_;
  const SnapshotStore& store_;
  ArraySet& arrays_;
  const RevertPlan plan_;
  DiskClaims claims_;
  std::vector<SnapshotJournal> superseded_;
  std::optional<SnapshotSet> kept_;
  RevertOutcome outcome_;
};

}  // namespace

std::vector<std::string> describe(const RevertPlan& plan) {
  std::vector<std::string> lines;
  for (const RevertDisk& disk : plan.disks) {
    lines.push_back(fmt::format("claim disk {} of {} ({})", disk.disk.id, disk.vm, disk.identity));
  }
  if (!plan.kept.empty()) lines.push_back(fmt::format("keep the present state as {}", plan.kept));
  for (const RevertDisk& disk : plan.disks) {
    if (disk.read_only) continue;
    lines.push_back(fmt::format("restore disk {} of {} in {} from {}", disk.disk.id, disk.vm,
                                disk.disk.array, disk.disk.snapshot_id));
  }
  lines.insert(lines.end(), plan.left_out.begin(), plan.left_out.end());
  for (const SnapshotMember& member : plan.members) {
    lines.push_back(fmt::format("give {} a new generation id", member.vm));
  }
  return lines;
}

Result<RevertPlan> Reverter::plan(const RevertRequest& request) const {
  const SnapshotSet set = TRY(config_.store->get(request.id));
  RevertPlan plan;
  plan.to = set.id;
  TRY(add_members(set, request, plan));
  for (const SnapshotMember& member : plan.members) {
    if (config_.check_stopped) TRY(config_.check_stopped(member.vm));
  }
  for (const SnapshotJournal& journal : TRY(take_over(plan, *config_.store))) {
    plan.superseded.push_back(journal.id());
  }
  TRY(check_copies(plan, *config_.arrays));
  // What is there while another revert is not finished is nobody's state.
  if (request.discard_present || !plan.superseded.empty()) return plan;
  const std::string name = plan.members.size() == 1 ? plan.members.front().vm : name_in(set.id);
  plan.kept = config_.store->new_id(name, std::chrono::system_clock::now());
  return plan;
}

Result<RevertOutcome> Reverter::revert(const RevertRequest& request) const {
  RevertPlan plan = TRY(this->plan(request));
  return RevertUnderWay(config_, std::move(plan)).run();
}

std::vector<Recovered> Reverter::recover() const {
  std::vector<Recovered> all;
  for (SnapshotJournal& journal : left_over_reverts(*config_.store)) {
    Result<> finished = finish(journal, *config_.store, *config_.arrays, config_.generations);
    if (finished) finished = journal.remove();
    const Result<RevertJournal> content = revert_from_json(journal.content(), journal.id());
    const std::string what = content.ok()
                                 ? fmt::format("the revert of {} to snapshot {}",
                                               names_of(content.value()), content.value().to)
                                 : fmt::format("revert {}", journal.id());
    if (finished) {
      all.push_back({fmt::format("finished {}, which was cut short", what), true});
    } else {
      all.push_back(
          {fmt::format("{} was cut short and cannot be finished, and until it is, no VM starts "
                       "with its disks: {}",
                       what, finished.error().message),
           false});
    }
  }
  return all;
}

}  // namespace plumb
