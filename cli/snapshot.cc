// plumb snapshot create, list, show, revert, delete, recover.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/size.h"
#include "base/text.h"
#include "base/unix_socket.h"
#include "cli/host_config.h"
#include "cli/libvirt_guests.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/snapshot_commands.h"
#include "cli/snapshot_hooks.h"
#include "cli/vm_client.h"
#include "snapshot/recovery.h"
#include "snapshot/revert.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr unsigned kHookTimeoutMs = 60'000;

volatile std::sig_atomic_t stopped_by = 0;

// SIGINT and its like end a snapshot at its next step, with everything undone.
void await_signals() {
  struct sigaction action {};
  action.sa_handler = [](int number) { stopped_by = number; };
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

Result<UniqueFd> connect_to_lease(const std::string& vm_name) {
  const VmClient vm = TRY(VmClient::find(vm_name));
  return connect_unix(RuntimePaths(vm_name).lease, SOCK_SEQPACKET);
}

Result<> check_stopped(const std::string& vm) {
  const pid_t pid = running_pid(vm);
  if (pid == 0) return {};
  return make_error(ErrorKind::kLocked,
                    "VM '{}' runs, as pid {}, and its disks cannot be put back under it; end it "
                    "first (`plumb stop {}`)",
                    vm, pid, vm);
}

// What a hook is told.
Json hook_input(const RevertPlan& plan) {
  Json vms = Json::array();
  Json disks = Json::array();
  for (const SnapshotMember& member : plan.members) vms.push_back(member.vm);
  for (const RevertDisk& disk : plan.disks) {
    if (!disk.read_only) disks.push_back({{"vm", disk.vm}, {"disk", disk.identity}});
  }
  return {{"vms", vms}, {"to", plan.to}, {"kept", plan.kept}, {"disks", disks}};
}

// Whether all is clean.
bool tell(const std::vector<Recovered>& all) {
  for (const Recovered& one : all) fmt::print(stderr, "plumb: {}\n", printable(one.sentence));
  return std::ranges::all_of(all, &Recovered::clean);
}

// Where snapshots are kept, and who makes them.
struct Snapshots {
  SnapshotStore store;
  ArraySet arrays;

  static Result<Snapshots> open() {
    SnapshotStore store = TRY(SnapshotStore::open(snapshot_folder()));
    ArraySet arrays = TRY(configured_array_set());
    return Snapshots{std::move(store), std::move(arrays)};
  }

  Coordinator coordinator(const SnapshotCreateOptions& options = {}) {
    Coordinator::Config config{.store = &store,
                               .arrays = &arrays,
                               .owner = fmt::format("plumb snapshot create (pid {})", ::getpid()),
                               .connect = connect_to_lease,
                               .told_by = "`plumb ps` tells",
                               .hook = {},
                               .interrupted = [] { return stopped_by != 0; }};
    if (!options.libvirt.empty()) {
      config.connect = [uri = options.libvirt](const std::string& domain) {
        return connect_to_libvirt_lease(uri, domain);
      };
      config.told_by = "its log below " + runtime_root() + "/libvirt tells";
    }
    if (!options.hooks.empty()) {
      config.hook = [folder = options.hooks](const char* phase, const SnapshotPlan& plan) {
        return run_snapshot_hook(folder, phase, plan.id, journal_of(plan), kHookTimeoutMs);
      };
    }
    return Coordinator(std::move(config));
  }

  Reverter reverter(const std::string& hooks = "") {
    Reverter::Config config{.store = &store,
                            .arrays = &arrays,
                            .generations = generation_folder(),
                            .check_stopped = check_stopped,
                            .hook = {},
                            .interrupted = [] { return stopped_by != 0; }};
    if (!hooks.empty()) {
      config.hook = [hooks](const char* phase, const RevertPlan& plan) {
        return run_snapshot_hook(hooks, phase, plan.to, hook_input(plan), kHookTimeoutMs);
      };
    }
    return Reverter(std::move(config));
  }

  // Before anything else is done. Returns whether all could be removed, or finished.
  bool recover() {
    // Guests first: they wait.
    const bool going_on = tell(recover_libvirt_guests());
    const bool removed = tell(plumb::recover(store, arrays));
    return tell(reverter().recover()) && removed && going_on;
  }
};

Result<SnapshotRequest> request_of(const SnapshotCreateOptions& options) {
  SnapshotRequest request;
  request.vms = options.vms;
  request.name = options.group.empty() ? options.vms.front() : options.group;
  if (options.vms.size() > 1 && options.group.empty()) {
    return usage_error("a snapshot of several VMs needs the name of their group: --group NAME");
  }
  if (!is_snapshot_id(request.name)) {
    return usage_error("'{}' cannot be part of a snapshot's id; use letters, digits, '-' and '_'",
                       request.name);
  }
  request.quiesce = TRY(parse_grade(options.quiesce));
  request.require = TRY(parse_grade(options.require));
  if (request.require > request.quiesce) {
    return usage_error("grade {} is required, but --quiesce asks for {} only", options.require,
                       options.quiesce);
  }
  request.mountpoints = options.mountpoints;
  request.note = options.note;
  request.limits = options.limits;
  return request;
}

Json summary_of(const SnapshotSet& set) {
  Json json = set_to_json(set);
  for (Json& member : json["members"]) member.erase("definition");
  return json;
}

void print_outcome(const SnapshotOutcome& outcome, bool json) {
  if (json) {
    Json summary = summary_of(outcome.set);
    summary["warnings"] = outcome.warnings;
    summary["still_frozen"] = outcome.frozen;
    return print_json(summary);
  }
  // Quiet for cron; a terminal is told the id and what it cost.
  if (::isatty(STDOUT_FILENO) == 0) return;
  for (const SnapshotMember& member : outcome.set.members) {
    fmt::print("{}  {}  grade {}, frozen for {} ms, disks held for {:.1f} ms\n", outcome.set.id,
               member.vm, name_of(member.grade), member.frozen_ms,
               static_cast<double>(member.held_us) / 1000);
  }
}

std::string age_of(const std::string& taken_at) {
  std::tm parts{};
  if (::strptime(taken_at.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts) == nullptr) return "?";
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
                           std::chrono::system_clock::now() -
                           std::chrono::system_clock::from_time_t(::timegm(&parts)))
                           .count();
  constexpr int64_t kHour = 3600;
  constexpr int64_t kDay = 24 * kHour;
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 2 * kHour) return fmt::format("{} min", seconds / 60);
  if (seconds < 2 * kDay) return fmt::format("{} h", seconds / kHour);
  return fmt::format("{} d", seconds / kDay);
}

uint64_t size_of(const SnapshotMember& member) {
  uint64_t size_bytes = 0;
  for (const SnapshotDisk& disk : member.disks) size_bytes += disk.source.size_bytes;
  return size_bytes;
}

// How deep a member stands below the first of its line that is still there.
size_t depth_of(const SnapshotMember& member, const std::map<std::string, SnapshotSet>& sets) {
  size_t depth = 0;
  for (const SnapshotMember* at = &member; depth <= sets.size(); ++depth) {
    const auto parent = sets.find(at->parent);
    if (parent == sets.end()) break;
    at = parent->second.find(member.vm);
    if (at == nullptr) break;
  }
  return depth;
}

}  // namespace

Result<ExitCode> create_snapshot(const SnapshotCreateOptions& options) {
  const SnapshotRequest request = TRY(request_of(options));
  await_signals();
  Snapshots snapshots = TRY(Snapshots::open());
  Coordinator coordinator = snapshots.coordinator(options);
  if (options.dry_run) {
    const SnapshotPlan plan = TRY(coordinator.plan(request));
    for (const std::string& line : describe(plan)) fmt::print("{}\n", printable(line));
    return kExitOk;
  }
  snapshots.recover();
  Result<SnapshotOutcome> outcome = coordinator.take(request);
  // A watchdog of libvirt's guests that was killed meanwhile has left its guest as it was.
  if (!options.libvirt.empty()) tell(recover_libvirt_guests());
  if (!outcome && stopped_by != 0) {
    fmt::print(stderr, "plumb: interrupted; nothing is kept\n");
    return static_cast<ExitCode>(kExitSignal + stopped_by);
  }
  if (!outcome) return std::move(outcome).error();
  print_outcome(*outcome, options.json);
  for (const auto* sentences : {&outcome->warnings, &outcome->frozen}) {
    for (const std::string& one : *sentences) fmt::print(stderr, "plumb: {}\n", printable(one));
  }
  if (!outcome->frozen.empty()) return kExitFreeze;
  return outcome->warnings.empty() ? kExitOk : kExitWeaker;
}

Result<ExitCode> list_snapshots(const std::string& vm, bool json) {
  Snapshots snapshots = TRY(Snapshots::open());
  const SnapshotStore::Listed listed = snapshots.store.list();
  Json all = Json::array();
  std::map<std::string, SnapshotSet> sets;
  for (const SnapshotSet& set : listed.sets) sets[set.id] = set;
  Table table({"ID", "VM", "GRADE", "AGE", "SIZE", "NOTE"});
  for (const SnapshotSet& set : listed.sets) {
    if (!vm.empty() && set.find(vm) == nullptr) continue;
    all.push_back(summary_of(set));
    for (const SnapshotMember& member : set.members) {
      if (!vm.empty() && member.vm != vm) continue;
      const std::string indent(vm.empty() ? 0 : 2 * depth_of(member, sets), ' ');
      table.add({indent + set.id, member.vm, name_of(member.grade), age_of(set.taken_at),
                 format_size(size_of(member)), set.note});
    }
  }
  if (json) print_json(all);
  if (!json) table.print();
  for (const std::string& one : listed.problems) {
    fmt::print(stderr, "plumb: {}\n", printable(one));
  }
  return listed.problems.empty() ? kExitOk : kExitWeaker;
}

Result<ExitCode> show_snapshot(const std::string& id, bool json) {
  Snapshots snapshots = TRY(Snapshots::open());
  const SnapshotSet set = TRY(snapshots.store.get(id));
  if (json) {
    print_json(set_to_json(set));
    return kExitOk;
  }
  fmt::print("snapshot  {}\ntaken     {} ({} ago)\n", set.id, set.taken_at, age_of(set.taken_at));
  if (!set.note.empty()) fmt::print("note      {}\n", printable(set.note));
  for (const SnapshotMember& member : set.members) {
    fmt::print("\nVM        {}\ngrade     {}{}{}\n", member.vm, name_of(member.grade),
               member.reason.empty() ? "" : ": ", printable(member.reason));
    if (!member.os.name.empty()) {
      fmt::print("guest     {}, {}\n", printable(member.os.name), printable(member.os.kernel));
    }
    fmt::print("frozen    {} ms, after {} ms; disks held for {:.1f} ms\n", member.frozen_ms,
               member.freeze_ms, static_cast<double>(member.held_us) / 1000);
    for (const SnapshotDisk& disk : member.disks) {
      fmt::print("disk      {}  {}  {}  in {}: {}\n", disk.id, format_size(disk.source.size_bytes),
                 printable(disk.source.image + disk.source.wwn), disk.array, disk.snapshot_id);
    }
  }
  return kExitOk;
}

Result<ExitCode> delete_snapshots(const std::vector<std::string>& ids) {
  Snapshots snapshots = TRY(Snapshots::open());
  snapshots.recover();
  for (const std::string& id : ids) TRY(snapshots.coordinator().remove(id));
  return kExitOk;
}

Result<ExitCode> revert_to_snapshot(const SnapshotRevertOptions& options) {
  await_signals();
  Snapshots snapshots = TRY(Snapshots::open());
  const RevertRequest request{options.id, options.vm, options.disks, options.discard_present};
  if (options.dry_run) {
    const RevertPlan plan = TRY(snapshots.reverter().plan(request));
    for (const std::string& line : describe(plan)) fmt::print("{}\n", printable(line));
    return kExitOk;
  }
  snapshots.recover();
  Result<RevertOutcome> outcome = snapshots.reverter(options.hooks).revert(request);
  if (!outcome && stopped_by != 0 && outcome.error().message == kInterrupted) {
    fmt::print(stderr, "plumb: interrupted; nothing was changed\n");
    return static_cast<ExitCode>(kExitSignal + stopped_by);
  }
  if (!outcome) return std::move(outcome).error();
  const RevertJournal& done = outcome->done;
  if (options.json) {
    Json vms = Json::array();
    for (const RevertJournal::Vm& vm : done.vms) {
      vms.push_back({{"vm", vm.name}, {"generation_id", vm.generation.id}});
    }
    print_json(
        {{"to", done.to}, {"kept", done.kept}, {"vms", vms}, {"warnings", outcome->warnings}});
  } else if (::isatty(STDOUT_FILENO) != 0 && !done.kept.empty()) {
    fmt::print("the state before is kept as {}\n", done.kept);
  }
  for (const std::string& one : outcome->warnings) {
    fmt::print(stderr, "plumb: {}\n", printable(one));
  }
  return outcome->warnings.empty() ? kExitOk : kExitWeaker;
}

Result<ExitCode> recover_snapshots() {
  Snapshots snapshots = TRY(Snapshots::open());
  bool clean = snapshots.recover();
  for (const auto& [folder, what] :
       {std::pair{template_folder(), "template"}, std::pair{disk_journal_folder(), "disk"}}) {
    const SnapshotStore store = TRY(SnapshotStore::open(folder, what));
    clean = tell(plumb::recover(store, snapshots.arrays)) && clean;
  }
  TRY(snapshots.arrays.overlays()->tidy());
  return clean ? kExitOk : kExitFailed;
}

}  // namespace plumb
