#include "cli/snapshot_hooks.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/program.h"

namespace plumb {

Result<> run_snapshot_hook(const std::string& folder, const char* phase, const std::string& id,
                           const nlohmann::json& journal, unsigned timeout_ms) {
  const std::string program = folder + "/" + phase;
  if (::access(program.c_str(), F_OK) != 0) return {};
  std::string vms;
  for (const nlohmann::json& vm : journal.at("vms")) {
    vms += (vms.empty() ? "" : " ") + vm.get<std::string>();
  }
  const Result<ProgramAnswer> answer =
      run_program({.program = program,
                   .arguments = {},
                   .input = journal.dump() + "\n",
                   .environment = {std::string("PLUMB_PHASE=") + phase, "PLUMB_SNAPSHOT=" + id,
                                   "PLUMB_VMS=" + vms},
                   .timeout_ms = timeout_ms});
  if (!answer.ok()) return failed("hook {}: {}", program, Result(answer).error().message);
  if (answer.value().exit_status == 0) return {};
  const std::string words = last_words(answer.value().errors);
  return failed("hook {} failed with exit status {}{}{}", program, answer.value().exit_status,
                words.empty() ? "" : ": ", words);
}

}  // namespace plumb
