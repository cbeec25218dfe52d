// plumb ps, stop, kill, pause, resume: clients of a running VM's control API.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/size.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/vm_client.h"

namespace plumb {

using Json = nlohmann::json;

Result<ExitCode> list_vms(bool json) {
  Json all = Json::array();
  for (const std::string& name : running_vms()) {
    Result<VmClient> vm = VmClient::find(name);
    if (!vm) continue;  // it ended meanwhile
    Result<Json> status = vm->get("/vm");
    if (status) {
      all.push_back(std::move(status).value());
    } else {
      all.push_back({{"name", name}, {"pid", vm->pid()}, {"state", "not answering"}});
    }
  }
  if (json) {
    print_json(all);
    return kExitOk;
  }
  Table table({"NAME", "STATE", "PID", "VCPUS", "MEMORY", "DISKS"});
  for (const Json& vm : all) {
    std::string disks;
    for (const Json& disk : vm.value("disks", Json::array())) {
      if (!disks.empty()) disks += ", ";
      disks += disk.value("id", "") + "=" + disk.value("source", "");
    }
    table.add({vm.value("name", ""), vm.value("state", ""), std::to_string(vm.value("pid", 0)),
               std::to_string(vm.value("vcpus", 0)),
               format_size(vm.value("memory_bytes", uint64_t{0})), disks});
  }
  table.print();
  for (const Json& vm : all) {
    if (!vm.contains("pause_reason")) continue;
    fmt::print("{} is paused: {}\n", vm.value("name", ""), printable(vm.value("pause_reason", "")));
  }
  return kExitOk;
}

// Ends the VM at once: through its API, and by a signal when that does not answer.
Result<ExitCode> kill_vm(const std::string& name) {
  constexpr int kPatienceMs = 10000;
  const VmClient vm = TRY(VmClient::find(name));
  if (!vm.put("/vm/kill").ok() || !vm.wait_for_end(kPatienceMs)) {
    vm.kill_process();
    vm.wait_for_end(-1);
  }
  return kExitOk;
}

Result<ExitCode> stop_vm(const std::string& name, int timeout_s) {
  const VmClient vm = TRY(VmClient::find(name));
  const Json status = TRY(vm.put("/vm/power-button"));
  if (status.contains("pause_reason")) {
    fmt::print(stderr, "plumb: VM '{}' is paused and cannot power off until it goes on: {}\n", name,
               printable(status.value("pause_reason", "")));
  }
  if (vm.wait_for_end(timeout_s * 1000)) return kExitOk;
  fmt::print(stderr, "plumb: VM '{}' did not power off within {} s; it is killed\n", name,
             timeout_s);
  TRY(kill_vm(name));
  return kExitWeaker;
}

Result<ExitCode> change_state(const std::string& name, const std::string& target) {
  const VmClient vm = TRY(VmClient::find(name));
  TRY(vm.put(target));
  return kExitOk;
}

}  // namespace plumb
