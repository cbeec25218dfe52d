// plumb ps, stop, kill, pause, resume: clients of a running VM's control API.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/size.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/vm_client.h"

namespace plumb {
namespace {

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
  TRY(vm.put("/vm/power-button"));
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

}  // namespace

void add_vm_commands(CLI::App& app, Action& action) {
  CLI::App* ps = app.add_subcommand("ps", "list running VMs");
  auto json = std::make_shared<bool>(false);
  ps->add_flag("--json", *json, "print JSON");
  ps->footer("Example: plumb ps --json");
  ps->callback([&action, json] { action = [json] { return list_vms(*json); }; });

  auto name = std::make_shared<std::string>();
  auto timeout_s = std::make_shared<int>(60);
  CLI::App* stop = app.add_subcommand("stop", "press the power button; kill after a timeout");
  stop->add_option("name", *name, "name of the VM")->required();
  stop->add_option("--timeout", *timeout_s, "seconds until the VM is killed (exit code 3)")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  stop->footer("Example: plumb stop db1 --timeout 120");
  stop->callback([&action, name, timeout_s] {
    action = [name, timeout_s] { return stop_vm(*name, *timeout_s); };
  });

  CLI::App* kill = app.add_subcommand("kill", "end a VM at once, as if its power failed");
  kill->add_option("name", *name, "name of the VM")->required();
  kill->footer("Example: plumb kill db1");
  kill->callback([&action, name] { action = [name] { return kill_vm(*name); }; });

  const std::pair<const char*, const char*> kChanges[] = {{"pause", "stop the vCPUs of a VM"},
                                                          {"resume", "let a paused VM go on"}};
  for (const auto& [verb, help] : kChanges) {
    CLI::App* command = app.add_subcommand(verb, help);
    command->add_option("name", *name, "name of the VM")->required();
    command->footer(fmt::format("Example: plumb {} db1", verb));
    command->callback([&action, name, target = fmt::format("/vm/{}", verb)] {
      action = [name, target] { return change_state(*name, target); };
    });
  }
}

}  // namespace plumb
