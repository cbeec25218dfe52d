#include "snapshot/snapshot_run.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "base/uuid.h"
#include "snapshot/freeze_lease.h"
#include "snapshot/lease_messages.h"
#include "snapshot/recovery.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// Beyond the lease's own limits: a VM that does not answer at all.
constexpr int kPatienceMs = 30'000;

int wait_for(unsigned limit_ms) { return static_cast<int>(limit_ms) + kPatienceMs; }

// A VM that is not there is named already.
Error about(const std::string& vm, Error error) {
  if (error.kind != ErrorKind::kNotFound)
    error.message = fmt::format("VM '{}': {}", vm, error.message);
  return error;
}

// That the path still names what the VM has open.
Result<> check_same_file(const std::string& path, const Json& medium) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return os_error(errno, "image {} is not there", path);
  if (medium.value("st_dev", uint64_t{0}) == status.st_dev &&
      medium.value("st_ino", uint64_t{0}) == status.st_ino) {
    return {};
  }
  return failed("image {} is another file than the one that the VM has open; put that one back",
                path);
}

}  // namespace

// Meanwhile it is through our leases that VMs are asked for overlays.
SnapshotRun::SnapshotRun(const Coordinator::Config& config, const SnapshotRequest& request)
    : config_(config), request_(request) {
  OverlayArray* overlays = config_.arrays->overlays();
  if (overlays == nullptr) return;
  other_vms_ = overlays->exchange_vms(
      {.keep = [this](const std::vector<OverlayArray::Kept>& disks) { return keep(disks); },
       .let_go = [this](const std::string& disk,
                        const std::string& uuid) { return let_go_overlay(disk, uuid); }});
}

SnapshotRun::~SnapshotRun() {
  work_.clear();
  if (OverlayArray* overlays = config_.arrays->overlays()) {
    overlays->exchange_vms(std::move(other_vms_));
  }
}

Result<> SnapshotRun::open() {
  const auto now = std::chrono::system_clock::now();
  unique_ = TRY(Uuid::random()).text();
  plan_.id = config_.store->new_id(request_.name, now);
  plan_.quiesce = request_.quiesce;
  taken_at_ = utc_text(now);
  members_.resize(request_.vms.size());
  for (size_t i = 0; i < members_.size(); ++i) {
    members_[i].vm = request_.vms[i];
    if (Result<> opened = open_member(members_[i]); !opened) {
      return about(members_[i].vm, std::move(opened).error());
    }
  }
  if (request_.quiesce != Grade::kCrash) ask_guests();
  return {};
}

Result<> SnapshotRun::open_member(Member& member) {
  member.lease.emplace(TRY(config_.connect(member.vm)));
  const Json said = TRY(member.lease->call("begin", {{"owner", config_.owner}}, kPatienceMs));
  try {
    plan_.members.push_back(TRY(plan_member(member, said)));
    if (said.at("paused").get<bool>()) {
      member.still.trouble = "the VM is paused, and its guest cannot answer";
    }
  } catch (const Json::exception& error) {
    return failed(
        "its process tells of it in a way that is not known ({}); is it of another "
        "version of plumb?",
        error.what());
  }
  return {};
}

Result<PlannedMember> SnapshotRun::plan_member(const Member& member, const Json& said) {
  PlannedMember planned{.vm = member.vm,
                        .parent = config_.store->head_of(member.vm),
                        .definition = said.at("definition"),
                        .disks = {},
                        .left_out = said.value("left_out", std::vector<std::string>())};
  for (const Json& medium : said.at("media")) {
    planned.disks.push_back(TRY(plan_disk(member.vm, medium)));
  }
  return planned;
}

Result<PlannedDisk> SnapshotRun::plan_disk(const std::string& vm, const Json& medium) {
  PlannedDisk disk;
  disk.id = medium.at("id");
  disk.medium.wwn = medium.at("wwn");
  disk.medium.device = medium.at("device");
  disk.medium.size_bytes = medium.at("size_bytes");
  if (disk.medium.wwn.empty()) {
    disk.medium.image = std::exchange(disk.medium.device, "");
    TRY(check_same_file(disk.medium.image, medium));
  }
  disk.read_only = medium.value("read_only", false);
  ArraySet::Found found = TRY(config_.arrays->find(disk.medium));
  disk.array = found.array->name();
  if (found.array == config_.arrays->overlays()) {
    const std::string why = medium.value("not_kept", "");
    if (!why.empty()) {
      return make_error(
          ErrorKind::kArray,
          "disk {} of VM '{}' is in no array or file system that can copy it at one "
          "instant, and its VM cannot keep what is overwritten there: {}; name its array "
          "in plumb.toml, or keep the image on XFS or Btrfs (docs/arrays.md)",
          disk.id, vm, why);
    }
  }
  disk.volume = std::move(found.volume);
  disk.name = array_name_of(unique_, vm, disk.id);
  return disk;
}

// A guest that does not answer is graded later; the others go on.
void SnapshotRun::ask_guests() {
  for (Member& member : members_) {
    if (!member.still.trouble.empty()) continue;
    Result<> asked = member.lease->ask("guest", {{"timeout_ms", request_.limits.agent_ms}});
    if (!asked) member.still.trouble = asked.error().message;
  }
  for (Member& member : members_) {
    if (!member.still.trouble.empty()) continue;
    // The agent has its time for each of the few things that it is asked.
    Result<Json> said = member.lease->answer(wait_for(8 * request_.limits.agent_ms));
    Result<GuestFacts> facts =
        said ? facts_from_json(*said) : Result<GuestFacts>(std::move(said).error());
    if (facts) {
      member.still.facts = std::move(facts).value();
    } else {
      member.still.trouble = facts.error().message;
    }
  }
}

Result<SnapshotOutcome> SnapshotRun::take() {
  TRY(open());
  if (request_.require != Grade::kCrash) TRY(check_required());
  SnapshotJournal journal = TRY(
      config_.store->begin_new(request_.name, std::chrono::system_clock::now(), journal_of(plan_)));
  plan_.id = journal.id();
  Result<> done = step("planned");
  if (done) done = prepare();
  if (done) done = copy();
  if (done) done = finish();
  Result<SnapshotSet> set = done ? make_set() : Result<SnapshotSet>(std::move(done).error());
  if (set && request_.require != Grade::kCrash) {
    if (Result<> good = check_required(); !good) set = std::move(good).error();
  }
  if (set) {
    if (Result<> added = config_.store->add(*set); !added) set = std::move(added).error();
  }
  if (!set) return give_up(std::move(set).error(), journal);
  TRY(journal.remove());
  late_step("recorded");
  SnapshotOutcome outcome{.set = std::move(set).value(), .warnings = {}, .frozen = still_frozen_};
  judge(outcome);
  return outcome;
}

// Nothing is kept; what cannot be removed now is in the journal.
Error SnapshotRun::give_up(Error error, SnapshotJournal& journal) {
  work_.clear();  // drops what the arrays have not finished
  if (remove_made(*config_.arrays, journal.content())) static_cast<void>(journal.remove());
  for (const std::string& sentence : still_frozen_) {
    error.kind = ErrorKind::kFreeze;
    error.message += "; " + sentence;
  }
  return error;
}

// From the first freeze to the last thaw.
Result<> SnapshotRun::copy() {
  Result<> done = freeze();
  if (done) done = hold();
  if (done) done = take_all();
  if (done) done = release();
  if (!done) let_go();
  if (done) late_step("released");
  thaw();
  if (done) late_step("thawed");
  return done;
}

Result<> SnapshotRun::prepare() {
  for (const std::string& name : plan_.arrays()) {
    ArrayWork& work = work_.emplace_back();
    work.array = TRY(config_.arrays->get(name));
    for (const PlannedMember& member : plan_.members) {
      for (const PlannedDisk& disk : member.disks) {
        if (disk.array == name) work.requests.push_back({disk.volume, disk.name});
      }
    }
    Result<std::unique_ptr<PreparedSnapshot>> prepared = work.array->prepare(work.requests);
    if (!prepared) return array_error(std::move(prepared).error());
    work.prepared = std::move(prepared).value();
  }
  return step("prepared");
}

Result<> SnapshotRun::freeze() {
  std::vector<Member*> asked;
  for (Member& member : members_) {
    if (!member.still.facts) continue;
    Result<> sent = member.lease->ask("freeze", {{"mountpoints", request_.mountpoints},
                                                 {"timeout_ms", request_.limits.freeze_ms},
                                                 {"limit_ms", request_.limits.frozen_ms}});
    if (sent) asked.push_back(&member);
    if (!sent) member.still.trouble = sent.error().message;
  }
  for (Member* member : asked) {
    Result<Json> said = member->lease->answer(wait_for(request_.limits.freeze_ms));
    if (!said) {
      member->still.trouble = said.error().message;
      continue;
    }
    member->still.frozen = said->value("frozen", 0U);
    member->freeze_ms = said->value("freeze_ms", uint64_t{0});
  }
  if (request_.require != Grade::kCrash) TRY(check_required());
  return step("frozen");
}

Result<> SnapshotRun::hold() {
  for (Member& member : members_) {
    TRY(member.lease->ask("hold", {{"limit_ms", request_.limits.held_ms}}));
    member.held = true;
  }
  Result<> all;
  for (Member& member : members_) {
    Result<Json> said = member.lease->answer(wait_for(request_.limits.held_ms));
    if (said) continue;
    member.held = false;
    if (all) all = about(member.vm, std::move(said).error());
  }
  TRY(all);
  return step("held");
}

Result<> SnapshotRun::take_all() {
  const auto began = std::chrono::steady_clock::now();
  std::vector<Result<>> results(work_.size());
  std::vector<std::thread> threads;
  // The leases are this thread's, and overlays need them.
  const auto ours = std::ranges::find(
      work_, static_cast<ArrayProvider*>(config_.arrays->overlays()), &ArrayWork::array);
  const size_t own = ours == work_.end() ? 0 : static_cast<size_t>(ours - work_.begin());
  for (size_t i = 0; i < work_.size(); ++i) {
    if (i == own) continue;
    threads.emplace_back([this, &results, i] { results[i] = work_[i].prepared->take(); });
  }
  if (!work_.empty()) results[own] = work_[own].prepared->take();
  for (std::thread& thread : threads) thread.join();
  copied_us_ = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                         std::chrono::steady_clock::now() - began)
                                         .count());
  for (Result<>& result : results) {
    if (!result) return array_error(std::move(result).error());
  }
  return step("copied");
}

std::optional<size_t> SnapshotRun::member_with(const std::string& disk) const {
  for (size_t i = 0; i < plan_.members.size(); ++i) {
    for (const PlannedDisk& one : plan_.members[i].disks) {
      if (one.volume.id == disk) return i;
    }
  }
  return std::nullopt;
}

// Of a disk that its VM cannot write to, nothing needs to be kept.
Result<> SnapshotRun::keep(const std::vector<OverlayArray::Kept>& disks) {
  std::vector<Member*> asked;
  for (size_t i = 0; i < members_.size(); ++i) {
    Json overlays = Json::array();
    std::vector<int> fds;
    for (const PlannedDisk& planned : plan_.members[i].disks) {
      const auto kept = std::ranges::find(disks, planned.volume.id, &OverlayArray::Kept::disk);
      if (kept == disks.end() || planned.read_only) continue;
      overlays.push_back({{"disk", planned.id}, {"label", planned.name}});
      fds.push_back(kept->overlay.get());
    }
    if (fds.empty()) continue;
    if (fds.size() > FreezeLease::kMaxFds) {
      return failed("VM '{}' has more than {} disks to keep snapshots of", members_[i].vm,
                    FreezeLease::kMaxFds);
    }
    TRY(members_[i].lease->ask("keep", {{"overlays", overlays}}, fds));
    asked.push_back(&members_[i]);
  }
  Result<> all;
  for (Member* member : asked) {
    Result<Json> said = member->lease->answer(wait_for(request_.limits.held_ms));
    if (!said && all) all = about(member->vm, std::move(said).error());
  }
  return all;
}

// After all is over, by the lease that we still have.
Result<> SnapshotRun::let_go_overlay(const std::string& disk, const std::string& uuid) {
  const std::optional<size_t> at = member_with(disk);
  if (!at) return other_vms_.let_go(disk, uuid);
  return let_overlay_go(*members_[*at].lease, uuid);
}

// A hold that had ended before is no instant that the disks agree on.
Result<> SnapshotRun::release() {
  for (Member& member : members_) {
    member.held = false;
    TRY(member.lease->ask("release", Json::object()));
  }
  Result<> all;
  for (Member& member : members_) {
    Result<Json> said = member.lease->answer(kPatienceMs);
    if (said) {
      member.held_us = said->value("held_us", uint64_t{0});
    } else if (all) {
      all = about(member.vm, std::move(said).error());
    }
  }
  return all;
}

// After an error: lets all disks go that are held, without looking further.
void SnapshotRun::let_go() {
  for (Member& member : members_) {
    if (!std::exchange(member.held, false)) continue;
    static_cast<void>(member.lease->call("release", Json::object(), kPatienceMs));
  }
}

// All at once, and always.
void SnapshotRun::thaw() {
  for (Member& member : members_) {
    if (!member.frozen()) continue;
    static_cast<void>(member.lease->ask("thaw", {{"timeout_ms", request_.limits.thaw_ms}}));
  }
  for (Member& member : members_) {
    if (!member.frozen()) continue;
    Result<Json> said = member.lease->answer(wait_for(request_.limits.thaw_ms));
    if (!said) {
      member.still.trouble = said.error().message;
      if (said.error().os_errno != ETIMEDOUT) continue;
      still_frozen_.push_back(
          fmt::format("VM '{}' may still be frozen; it is told to thaw until it answers ({}): {}",
                      member.vm, config_.told_by, said.error().message));
      continue;
    }
    member.still.thawed =
        Thawed{.count = said->value("thawed", 0U), .complaint = said->value("complaint", "")};
    member.frozen_ms = said->value("frozen_ms", uint64_t{0});
    Result<std::optional<HookReport>> hooks = hooks_from_json(said->value("hooks", Json()));
    if (hooks) member.still.hooks = std::move(hooks).value();
  }
}

Result<> SnapshotRun::finish() {
  for (ArrayWork& work : work_) {
    Result<std::vector<ArraySnapshot>> taken = work.prepared->finish();
    if (!taken) return array_error(std::move(taken).error());
    work.taken = std::move(taken).value();
    ENSURE(work.taken.size() == work.requests.size());
  }
  late_step("whole");
  return {};
}

// What is known so far; after the thaw it is all.
Result<> SnapshotRun::check_required() const {
  for (const Member& member : members_) {
    GradeFound found = grade_of(request_.quiesce, member.still);
    if (member.still.trouble.empty() && !member.still.thawed) continue;  // it may yet become so
    if (found.grade >= request_.require) continue;
    return make_error(ErrorKind::kFreeze,
                      "VM '{}' can only be taken with grade {}, not {} as required: {}", member.vm,
                      name_of(found.grade), name_of(request_.require), found.reason);
  }
  return {};
}

void SnapshotRun::judge(SnapshotOutcome& outcome) const {
  for (const SnapshotMember& member : outcome.set.members) {
    if (member.grade >= request_.quiesce) continue;
    outcome.warnings.push_back(fmt::format("VM '{}' is of grade {} only, not {}: {}", member.vm,
                                           name_of(member.grade), name_of(request_.quiesce),
                                           member.reason));
  }
  outcome.warnings.insert(outcome.warnings.end(), warnings_.begin(), warnings_.end());
}

const ArraySnapshot& SnapshotRun::taken_for(const PlannedDisk& disk) const {
  for (const ArrayWork& work : work_) {
    for (size_t i = 0; i < work.requests.size(); ++i) {
      if (work.requests[i].name == disk.name) return work.taken[i];
    }
  }
  ENSURE(false);
  return work_.front().taken.front();
}

Result<SnapshotSet> SnapshotRun::make_set() const {
  SnapshotSet set{.id = plan_.id,
                  .taken_at = taken_at_,
                  .note = request_.note,
                  .asked = request_.quiesce,
                  .copied_us = copied_us_,
                  .members = {}};
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[i];
    const PlannedMember& planned = plan_.members[i];
    const GradeFound found = grade_of(request_.quiesce, member.still);
    SnapshotMember& recorded = set.members.emplace_back();
    recorded.vm = member.vm;
    recorded.parent = planned.parent;
    recorded.grade = found.grade;
    recorded.reason = found.reason;
    if (member.still.facts) {
      recorded.agent = member.still.facts->agent;
      recorded.os = member.still.facts->os;
    }
    recorded.freeze_ms = member.freeze_ms;
    recorded.frozen_ms = member.frozen_ms;
    recorded.held_us = member.held_us;
    recorded.definition = planned.definition;
    for (const PlannedDisk& disk : planned.disks) {
      recorded.disks.push_back({.id = disk.id,
                                .source = disk.medium,
                                .array = disk.array,
                                .volume_id = disk.volume.id,
                                .snapshot_id = taken_for(disk).id});
    }
  }
  return set;
}

Result<> SnapshotRun::step(const char* phase) {
  if (config_.interrupted && config_.interrupted()) return failed("interrupted");
  return config_.hook ? config_.hook(phase, plan_) : Result<>();
}

void SnapshotRun::late_step(const char* phase) {
  if (!config_.hook) return;
  if (Result<> done = config_.hook(phase, plan_); !done) warnings_.push_back(done.error().message);
}

}  // namespace plumb
