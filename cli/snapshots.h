// Where snapshots are kept, and who makes them: what `plumb snapshot` and `plumb backup run` share.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/array_set.h"
#include "snapshot/coordinator.h"
#include "snapshot/recovery.h"
#include "snapshot/revert.h"
#include "snapshot/snapshot_store.h"

namespace plumb {

// From now on SIGINT and its like end a snapshot, or a backup, at its next step, with everything
// undone.
void await_signals();
// The one that came; 0: none.
int stopped_by();

struct Snapshots {
  SnapshotStore store;
  ArraySet arrays;

  static Result<Snapshots> open(const std::string& folder, const std::string& what = "snapshot");

  // `libvirt`: the URI, when the VMs are its guests; `hooks`: a folder. "" for none. Not moved
  // meanwhile.
  Coordinator coordinator(const std::string& libvirt = "", const std::string& hooks = "");
  Reverter reverter(const std::string& hooks = "");

  // Before anything else is done. Returns whether all could be removed, or finished; what was is
  // told on standard error.
  bool recover();
};

// Prints each sentence on standard error; returns whether all is clean.
bool tell(const std::vector<Recovered>& all);

// "3 h": since an RFC 3339 time.
std::string age_of(const std::string& taken_at);

}  // namespace plumb
