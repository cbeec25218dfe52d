#include "cli/snapshot_hooks.h"

#include <unistd.h>

#include "base/program.h"

namespace plumb {

Result<> run_snapshot_hook(const std::string& folder, const char* phase, const SnapshotPlan& plan,
                           unsigned timeout_ms) {
  const std::string program = folder + "/" + phase;
  if (::access(program.c_str(), F_OK) != 0) return {};
  std::string vms;
  for (const PlannedMember& member : plan.members) vms += (vms.empty() ? "" : " ") + member.vm;
  const Result<ProgramAnswer> answer =
      run_program({.program = program,
                   .arguments = {},
                   .input = journal_of(plan).dump() + "\n",
                   .environment = {std::string("PLUMB_PHASE=") + phase, "PLUMB_SNAPSHOT=" + plan.id,
                                   "PLUMB_VMS=" + vms},
                   .timeout_ms = timeout_ms});
  if (!answer.ok()) return failed("hook {}: {}", program, Result(answer).error().message);
  if (answer.value().exit_status == 0) return {};
  const std::string words = last_words(answer.value().errors);
  return failed("hook {} failed with exit status {}{}{}", program, answer.value().exit_status,
                words.empty() ? "" : ": ", words);
}

}  // namespace plumb
