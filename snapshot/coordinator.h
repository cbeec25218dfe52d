// Coordinator: makes the disks of one or several guests agree on one instant, and copies them
// there:
//
//   plan → journal → freeze all guests at once → hold all disks → arrays → release → thaw → record
//
// Whatever fails, disks are released and guests thawed, and nothing is kept; whoever dies, the
// guests' leases (freeze_lease.h) do the same, and recovery.h drops what was made. A guest that
// cannot be frozen does not stop the rest: its grade tells, unless the request requires better.
//
// Blocks; one thread. With several arrays, each is asked on a thread of its own while guests wait.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "snapshot/array_set.h"
#include "snapshot/grade.h"
#include "snapshot/snapshot_plan.h"
#include "snapshot/snapshot_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {

// In milliseconds.
struct SnapshotLimits {
  unsigned agent_ms = 10'000;   // for an agent's first answer
  unsigned freeze_ms = 60'000;  // for it to freeze, its applications' hooks included
  unsigned frozen_ms = 10'000;  // how long a guest is frozen at most; VSS allows as long
  unsigned held_ms = 5'000;     // how long disks are held at most
  unsigned thaw_ms = 60'000;    // how long a thaw is waited for; it goes on after that
};

struct SnapshotRequest {
  std::vector<std::string> vms;
  std::string name;  // of the VM or the group; what the id begins with
  Grade quiesce = Grade::kCrash;
  Grade require = Grade::kCrash;         // weaker is an error, and nothing is kept
  std::vector<std::string> mountpoints;  // to freeze; empty: all
  std::string note;
  SnapshotLimits limits;
};

// What the caller may do before and after each step; a hook that fails before the disks are copied
// ends the snapshot, later it is a warning. In their order; each but the first stands behind the
// step that it names.
inline constexpr const char* kSnapshotPhases[] = {
    "planned", "prepared", "frozen", "held", "copied", "released", "thawed", "whole", "recorded"};

struct SnapshotOutcome {
  SnapshotSet set;
  std::vector<std::string> warnings;  // sentences: why it is weaker than asked
  std::vector<std::string> frozen;    // sentences about guests that may still be frozen
};

class Coordinator {
 public:
  struct Config {
    const SnapshotStore* store = nullptr;  // outlives this, as the next
    ArraySet* arrays = nullptr;
    std::string owner;  // who asks, for others: "plumb snapshot create (pid 4711)"
    // A connection to the VM's FreezeLease. Error kNotFound: it does not run.
    std::function<Result<UniqueFd>(const std::string& vm)> connect;
    std::string told_by;  // for people: who tells whether a guest is still frozen
    std::function<Result<>(const char* phase, const SnapshotPlan& plan)> hook;
    std::function<bool()> interrupted;  // the snapshot is given up at the next step
  };
  explicit Coordinator(Config config) : config_(std::move(config)) {}

  // What take() would do; touches no guest but to ask its agent.
  Result<SnapshotPlan> plan(const SnapshotRequest& request);
  // Error kinds: kNotFound, kLocked, kArray, kFreeze (the guest's state is named), kFailed.
  Result<SnapshotOutcome> take(const SnapshotRequest& request);

  // Removes a snapshot of all its VMs, in the arrays too. What was removed already, by a removal
  // that was cut short, is fine.
  Result<> remove(const std::string& id);

 private:
  const Config config_;
};

}  // namespace plumb
