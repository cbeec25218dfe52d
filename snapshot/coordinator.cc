#include "snapshot/coordinator.h"

#include <algorithm>
#include <map>
#include <utility>

#include "snapshot/recovery.h"
#include "snapshot/revert_journal.h"
#include "snapshot/snapshot_run.h"

namespace plumb {
Result<SnapshotPlan> Coordinator::plan(const SnapshotRequest& request) {
  SnapshotRun run(config_, request);
  TRY(run.open());
  return run.plan();
}

Result<SnapshotOutcome> Coordinator::take(const SnapshotRequest& request) {
  SnapshotRun run(config_, request);
  return run.take();
}

Result<> Coordinator::remove(const std::string& id) {
  const SnapshotSet set = TRY(config_.store->get(id));
  for (const RevertJournal& revert : TRY(unfinished_reverts(config_.store->journals()))) {
    if (revert.to != id) continue;
    return make_error(
        ErrorKind::kLocked,
        "a revert to snapshot {} is not finished, and needs it; finish it with `plumb "
        "snapshot recover`",
        id);
  }
  return remove_recorded(*config_.store, *config_.arrays, set);
}

}  // namespace plumb
