// Reverter: gives the disks of VMs that do not run the content of a snapshot:
//
//   claim the disks → keep the present state, as a snapshot → journal → restore each disk
//   → lineage and generation ids → the journal goes
//
// Until the journal nothing is changed. From then on no VM can have the disks before all of them
// are restored (revert_journal.h), whoever dies: recover() finishes it. When an array refuses, the
// disks go back to what was kept, and it is as if nothing had been done.
//
// The disks are claimed all the time, as a VM claims them, but for the moment in which an array
// does so itself (ArrayProvider::Abilities::claims).
//
// Blocks; one thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/array_set.h"
#include "snapshot/recovery.h"
#include "snapshot/revert_journal.h"
#include "snapshot/snapshot_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {

// The message of the error when `interrupted` ended it.
inline constexpr const char* kInterrupted = "interrupted";

struct RevertRequest {
  std::string id;                  // the snapshot
  std::string vm;                  // of a group's; "": all of them
  std::vector<std::string> disks;  // of one VM; empty: all that it can write to
  bool discard_present = false;    // the present state is not kept
};

struct RevertDisk {
  std::string vm;
  std::string identity;  // disk_identity()
  SnapshotDisk disk;
  bool read_only = false;  // its VM cannot write to it: it is kept with the others, not restored
};

struct RevertPlan {
  std::string to;
  std::vector<SnapshotMember> members;  // of that snapshot: the VMs that are reverted
  std::vector<RevertDisk> disks;
  std::string kept;                     // the id of the snapshot of the present state; "" for none
  std::vector<std::string> left_out;    // sentences about disks that stay as they are
  std::vector<std::string> superseded;  // journals of reverts that this one takes the place of
};
// For people: a line for each step.
std::vector<std::string> describe(const RevertPlan& plan);

// The steps that a hook stands behind, in their order; "revert-restored" is there once for each
// disk. A hook that fails up to "revert-kept" ends the revert, with nothing changed; later it is a
// warning.
inline constexpr const char* kRevertPhases[] = {"revert-planned",    "revert-kept",
                                                "revert-journalled", "revert-restored",
                                                "revert-renewed",    "revert-done"};

struct RevertOutcome {
  RevertJournal done;
  std::vector<std::string> warnings;
};

class Reverter {
 public:
  struct Config {
    const SnapshotStore* store = nullptr;  // outlives this, as the next
    ArraySet* arrays = nullptr;
    std::string generations;  // folder of generation records
    // Error kLocked: the VM runs.
    std::function<Result<>(const std::string& vm)> check_stopped;
    std::function<Result<>(const char* phase, const RevertPlan& plan)> hook;
    std::function<bool()> interrupted;  // asked until something is changed
  };
  explicit Reverter(Config config) : config_(std::move(config)) {}

  // What revert() would do; claims nothing. Errors: kNotFound, kUsage, kLocked (a VM runs, another
  // revert has a disk), kArray (a copy is gone).
  Result<RevertPlan> plan(const RevertRequest& request) const;
  // Besides: kLocked, with the holder of a disk. Whatever fails, either nothing was changed, or the
  // message says that the revert is to be finished.
  Result<RevertOutcome> revert(const RevertRequest& request) const;
  // Finishes those that were cut short.
  std::vector<Recovered> recover() const;

 private:
  const Config config_;
};

}  // namespace plumb
