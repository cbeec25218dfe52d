// Recovery: what commands that died had begun is removed. A journal (docs/formats/snapshot.md)
// names what was about to be made; when it was made whole, only the journal goes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/array_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {

struct Recovered {
  std::string sentence;
  bool clean = false;  // nothing is left of it
};

// Of all commands that run no more, but for reverts, which are finished (revert.h). What cannot be
// removed now stays in its journal.
std::vector<Recovered> recover(const SnapshotStore& store, ArraySet& arrays);

// Removes a snapshot that is recorded: its copies, those that are there, then the record.
Result<> remove_recorded(const SnapshotStore& store, ArraySet& arrays, const SnapshotSet& set);

// Removes the snapshots and volumes that a journal names, those that are there.
Result<> remove_made(ArraySet& arrays, const nlohmann::json& journal);

}  // namespace plumb
