// The host's hooks: programs in a folder, each named after a step of a snapshot (kSnapshotPhases)
// or of a revert (kRevertPhases), called when it is done. docs/snapshots.md tells what they get.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"

namespace plumb {

// Runs FOLDER/PHASE, if it is there, with the environment PLUMB_PHASE, PLUMB_SNAPSHOT and
// PLUMB_VMS, which are those of `journal`, and `journal` on its standard input. Errors: it cannot
// be run, took longer than `timeout_ms`, or failed.
Result<> run_snapshot_hook(const std::string& folder, const char* phase, const std::string& id,
                           const nlohmann::json& journal, unsigned timeout_ms);

}  // namespace plumb
