// plumb disk attach, disk detach: disks that come and go while their VM runs.
#include <fmt/core.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/program.h"
#include "base/text.h"
#include "cli/attach_socket.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/disk_source.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/vm_client.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr unsigned kMapTimeoutMs = 120'000;  // an array may take its time
constexpr std::chrono::milliseconds kLookEvery{100};
// How long a disk that was taken from the guest may have requests at its medium before we go.
constexpr std::chrono::seconds kDrainPatience{5};
constexpr int kEndMs = 10'000;  // for a VM that ends

// Has plumb-snapshot, which knows arrays, show a snapshot's disk to this host, and makes it the
// source of the new one.
Result<> take_from_snapshot(DiskDefinition& disk, const AttachOptions& options) {
  const auto read_only = options.switches.find("read-only");
  if (read_only == options.switches.end() || !read_only->second) {
    return usage_error("a snapshot is attached for reading only; add --read-only");
  }
  const ProgramAnswer answer =
      TRY(run_program({.program = program_beside("plumb-snapshot"),
                       .arguments = {"snapshot", "map", options.snapshot, "--json"},
                       .input = "",
                       .environment = {},
                       .timeout_ms = kMapTimeoutMs}));
  if (answer.exit_status != 0) {
    // Its sentence, as it would have said it to us.
    const std::string words = last_words(answer.errors);
    constexpr std::string_view kStart = "plumb: ";
    return make_error(kind_of_exit(answer.exit_status), "{}",
                      words.starts_with(kStart) ? words.substr(kStart.size()) : words);
  }
  const Json mapped = Json::parse(answer.output, nullptr, false);
  if (!mapped.is_object()) return failed("plumb-snapshot does not say where the snapshot is");
  disk.lun = mapped.value("wwn", "");
  if (disk.lun.empty()) disk.image = mapped.value("device", "");
  return {};
}

Result<DiskDefinition> definition_of(const AttachOptions& options) {
  DiskDefinition disk;
  TRY(set_disk_key(disk, "id", options.id));
  if (!options.snapshot.empty()) TRY(take_from_snapshot(disk, options));
  for (const auto& [key, value] : options.keys) {
    if (!value.empty()) TRY(set_disk_key(disk, key, value));
  }
  for (const auto& [key, given] : options.switches) {
    if (given) TRY(set_disk_key(disk, key, "true"));
  }
  TRY(complete_disk(disk));
  // What others are told of it holds wherever they are.
  for (std::string* path : {&disk.image, &disk.rdm}) {
    if (!path->empty()) *path = std::filesystem::absolute(*path).string();
  }
  return disk;
}

// What the VM would refuse, in its words rather than in those of a claim that its disks block.
Result<> check_new(const VmClient& vm, const DiskDefinition& disk) {
  const Json disks = TRY(vm.get("/vm")).value("disks", Json::array());
  for (const Json& other : disks) {
    const std::string id = other.value("id", "");
    if (id == disk.id) {
      return usage_error("VM '{}' has a disk '{}' already; give the new one another id", vm.name(),
                         id);
    }
    if (!disk.lun.empty() && other.value("wwn", "") == disk.lun) {
      return usage_error("VM '{}' has LUN {} already, as disk '{}'; it can have it once", vm.name(),
                         disk.lun, id);
    }
  }
  return {};
}

Json find_disk(const Json& vm, const std::string& id) {
  for (const Json& disk : vm.value("disks", Json::array())) {
    if (disk.value("id", "") == id) return disk;
  }
  return nullptr;
}

// Whether the disk was taken from a guest that used it, which may have let go of it since.
bool was_forced_off(const VmClient& vm, const std::string& id) {
  const Result<Json> events = vm.get("/vm/events");
  bool forced = false;
  if (!events.ok()) return forced;  // the VM has ended, and the disk is free
  for (const Json& event : events.value()) {
    const std::string kind = event.value("kind", "");
    if (event.value("disk", "") != id || !kind.starts_with("disk-")) continue;
    if (kind != "disk-detached") forced = kind == "disk-forced-off";
  }
  return forced;
}

ExitCode report_gone(const std::string& id, bool forced, bool has_device) {
  if (!forced) {
    fmt::print("{} is detached\n", id);
    return kExitOk;
  }
  fmt::print("{} is detached; the guest still used it, and gets I/O errors{}\n", id,
             has_device ? " from its device until it ejects that or reboots" : "");
  return kExitWeaker;
}

ExitCode report_ended(const std::string& id) {
  fmt::print("{} is detached: the VM has ended\n", id);
  return kExitOk;
}

}  // namespace

Result<ExitCode> attach_disk(const AttachOptions& options) {
  const DiskDefinition disk = TRY(definition_of(options));
  const VmClient vm = TRY(VmClient::find(options.vm));
  TRY(check_new(vm, disk));
  const std::vector<DiskSource> sources = TRY(open_sources({disk}));
  const Json answer = TRY(hand_over_disk(RuntimePaths(vm.name()).disks, disk, sources.front()));
  if (answer.contains("slot")) {
    fmt::print("{} is attached in PCI slot {}\n", disk.id, answer["slot"].dump());
  } else {
    fmt::print("{} is attached as SCSI target {}\n", disk.id, answer["target"].dump());
  }
  if (!answer.contains("weaker")) return kExitOk;
  fmt::print(stderr, "plumb: {}\n", printable(answer.value("weaker", "")));
  return kExitWeaker;
}

Result<ExitCode> detach_disk(const std::string& vm_name, const std::string& id, int timeout_s,
                             bool force) {
  const VmClient vm = TRY(VmClient::find(vm_name));
  Result<Json> asked =
      vm.put("/disks/detach", Json{{"disk", id}, {"timeout_s", timeout_s}, {"force", force}});
  // A guest may end for the loss of its disk before the answer has left.
  if (!asked && asked.error().os_errno == EPIPE && vm.wait_for_end(kEndMs)) {
    return report_ended(id);
  }
  Json status = TRY(std::move(asked));
  std::chrono::steady_clock::time_point left{};
  while (true) {
    const Json disk = find_disk(status, id);
    if (disk.is_null()) return report_gone(id, was_forced_off(vm, id), false);
    const std::string state = disk.value("state", "");
    if (state == "gone") return report_gone(id, true, true);
    if (state != "detaching" && state != "leaving") {
      return failed("{}", disk.value("refusal", "disk " + id + " is still attached"));
    }
    const auto now = std::chrono::steady_clock::now();
    if (state == "detaching") left = now + kDrainPatience;
    if (state == "leaving" && left == decltype(left){}) left = now + kDrainPatience;
    if (state == "leaving" && now >= left) {
      return failed(
          "disk {} is taken from the guest, but {} of its requests have not come back from {}; its "
          "claim stays until they do",
          id, disk.value("in_flight", 0), disk.value("device", ""));
    }
    std::this_thread::sleep_for(kLookEvery);
    Result<Json> now_status = vm.get("/vm");
    if (!now_status && vm.wait_for_end(0)) return report_ended(id);
    status = TRY(std::move(now_status));
  }
}

}  // namespace plumb
