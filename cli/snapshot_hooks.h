// The host's hooks: programs in a folder, each named after a step of a snapshot (kSnapshotPhases),
// called when it is done. docs/snapshots.md tells what they get.
#pragma once

#include <string>

#include "base/result.h"
#include "snapshot/snapshot_plan.h"

namespace plumb {

// Runs FOLDER/PHASE, if it is there, with the environment PLUMB_PHASE, PLUMB_SNAPSHOT and PLUMB_VMS
// and the plan's journal on its standard input. Errors: it cannot be run, took longer than
// `timeout_ms`, or failed.
Result<> run_snapshot_hook(const std::string& folder, const char* phase, const SnapshotPlan& plan,
                           unsigned timeout_ms);

}  // namespace plumb
