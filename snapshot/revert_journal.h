// The journal of a revert (revert.h): which disks get the content of which snapshot. As long as it
// is there, they may have neither content, and no VM may have them. docs/formats/snapshot.md.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "snapshot/generation.h"

namespace plumb {

struct RevertJournal {
  struct Vm {
    std::string name;
    std::string uuid;
    Generation generation;  // to be had afterwards
  };
  struct Disk {
    std::string vm;
    std::string id;
    std::string identity;  // disk_identity()
    std::string array;
    std::string volume_id;
    std::string snapshot_id;  // what it gets
    std::string kept_id;      // what it had before, in the same array; "" when that was not kept
  };
  std::string to;    // the snapshot
  std::string kept;  // the one of what was there before; "" when that was not kept
  std::vector<Vm> vms;
  std::vector<Disk> disks;
};

// Which disk it is, for journals: of an image its path, as the file system has it; else the WWN.
std::string disk_identity(const std::string& image, const std::string& wwn);

nlohmann::json revert_to_json(const RevertJournal& journal);
// Whether a journal is that of a revert.
bool is_revert(const nlohmann::json& journal);
// Errors name `file`: a key that is missing or of another kind, what is no UUID, no id.
Result<RevertJournal> revert_from_json(const nlohmann::json& json, std::string_view file);

// Those that are not finished, of commands that run or do not. `folder`: of journals
// (snapshot_store.h); it need not exist.
Result<std::vector<RevertJournal>> unfinished_reverts(const std::string& folder);

// Error kLocked: such a revert has this disk, which `label` names. Before a VM takes it, and again
// once it has locked it: a revert has its disks locked when it writes its journal.
Result<> check_not_reverting(const std::string& folder, const std::string& identity,
                             const std::string& label);

}  // namespace plumb
