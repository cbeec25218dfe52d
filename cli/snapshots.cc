#include "cli/snapshots.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "base/unix_socket.h"
#include "cli/host_config.h"
#include "cli/libvirt_guests.h"
#include "cli/runtime_folder.h"
#include "cli/snapshot_hooks.h"
#include "cli/vm_client.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr unsigned kHookTimeoutMs = 60'000;

volatile std::sig_atomic_t signal_number = 0;

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

}  // namespace

// SIGINT and its like end a snapshot at its next step, with everything undone.
void await_signals() {
  struct sigaction action {};
  action.sa_handler = [](int number) { signal_number = number; };
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

int stopped_by() { return signal_number; }

bool tell(const std::vector<Recovered>& all) {
  for (const Recovered& one : all) fmt::print(stderr, "plumb: {}\n", printable(one.sentence));
  return std::ranges::all_of(all, &Recovered::clean);
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

Result<Snapshots> Snapshots::open(const std::string& folder, const std::string& what) {
  SnapshotStore store = TRY(SnapshotStore::open(folder, what));
  ArraySet arrays = TRY(configured_array_set());
  return Snapshots{std::move(store), std::move(arrays)};
}

Coordinator Snapshots::coordinator(const std::string& libvirt, const std::string& hooks) {
  Coordinator::Config config{
      .store = &store,
      .arrays = &arrays,
      .owner = fmt::format("plumb {} create (pid {})", store.what(), ::getpid()),
      .connect = connect_to_lease,
      .told_by = "`plumb ps` tells",
      .hook = {},
      .interrupted = [] { return stopped_by() != 0; }};
  if (!libvirt.empty()) {
    config.connect = [libvirt](const std::string& domain) {
      return connect_to_libvirt_lease(libvirt, domain);
    };
    config.told_by = "its log below " + runtime_root() + "/libvirt tells";
  }
  if (!hooks.empty()) {
    config.hook = [hooks](const char* phase, const SnapshotPlan& plan) {
      return run_snapshot_hook(hooks, phase, plan.id, journal_of(plan), kHookTimeoutMs);
    };
  }
  return Coordinator(std::move(config));
}

Reverter Snapshots::reverter(const std::string& hooks) {
  Reverter::Config config{.store = &store,
                          .arrays = &arrays,
                          .generations = generation_folder(),
                          .check_stopped = check_stopped,
                          .hook = {},
                          .interrupted = [] { return stopped_by() != 0; }};
  if (!hooks.empty()) {
    config.hook = [hooks](const char* phase, const RevertPlan& plan) {
      return run_snapshot_hook(hooks, phase, plan.to, hook_input(plan), kHookTimeoutMs);
    };
  }
  return Reverter(std::move(config));
}

bool Snapshots::recover() {
  // Guests first: they wait.
  const bool going_on = tell(recover_libvirt_guests());
  const bool removed = tell(plumb::recover(store, arrays));
  return tell(reverter().recover()) && removed && going_on;
}

}  // namespace plumb
