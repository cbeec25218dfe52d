#include "snapshot/coordinator.h"

#include <algorithm>
#include <map>
#include <utility>

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
  for (const SnapshotMember& member : set.members) {
    for (const SnapshotDisk& disk : member.disks) {
      ArrayProvider* array = TRY(config_.arrays->get(disk.array));
      if (Result<> removed = array->remove(disk.snapshot_id); !removed) {
        return array_error(std::move(removed).error());
      }
    }
  }
  return config_.store->remove(id);
}

}  // namespace plumb
