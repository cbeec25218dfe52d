// SnapshotPlan: what one `plumb snapshot create` is going to do, made from what the VMs and arrays
// say, before anything is done. Pure; printed by --dry-run, written to the journal.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/grade.h"

namespace plumb {

// One disk: where it is, and under which name its array will have the snapshot.
struct PlannedDisk {
  std::string id;
  DiskMedium medium;
  std::string array;
  ArrayVolume volume;
  std::string name;
  bool read_only = false;  // the VM cannot write to it
};

struct PlannedMember {
  std::string vm;
  std::string parent;
  nlohmann::json definition;
  std::vector<PlannedDisk> disks;
  std::vector<std::string> left_out;  // sentences about what is not copied
};

struct SnapshotPlan {
  std::string id;
  Grade quiesce = Grade::kCrash;
  std::vector<PlannedMember> members;

  // The arrays in the order in which they are first used.
  std::vector<std::string> arrays() const;
};

// For people: a line for each step.
std::vector<std::string> describe(const SnapshotPlan& plan);

// What recovery needs: {"vms": [...], "snapshots": [{"array", "name"}]}.
nlohmann::json journal_of(const SnapshotPlan& plan);

}  // namespace plumb
