// What a revert does, step by step; the order is revert.cc's.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "snapshot/array_set.h"
#include "snapshot/revert.h"

namespace plumb {

// Disks that no VM can have meanwhile. A LUN that is not on this host (its array may want it so)
// cannot be had by any VM here either, and is passed by.
class DiskClaims {
 public:
  // By disk_identity(). Error kLocked names who has the disk.
  Result<> claim(const std::string& identity, bool read_only);
  // For as long as an array claims it itself.
  void release(const std::string& identity);
  Result<> claim_again(const std::string& identity);
  // The open disk; -1 when it is not on this host.
  int fd_of(const std::string& identity) const;

 private:
  struct Claim {
    std::string identity;
    UniqueFd fd;
    bool read_only = false;
  };
  static Result<> open(Claim& claim);

  std::vector<Claim> claims_;
};

// Copies the plan's disks as they are, and records that as the snapshot `plan.kept`. They are
// claimed.
Result<SnapshotSet> keep_present(const RevertPlan& plan, const SnapshotStore& store,
                                 ArraySet& arrays, const DiskClaims& claims);

// Restores the disks of a journal, from the first on; `restored` is how many calls were made, with
// that of the last one, which may have failed. `step` is told after each.
Result<> restore_disks(const RevertJournal& journal, ArraySet& arrays, DiskClaims& claims,
                       size_t& restored, const std::function<void()>& step);
// Gives the first `count` disks back what was kept.
Result<> go_back(const RevertJournal& journal, ArraySet& arrays, DiskClaims& claims, size_t count);

}  // namespace plumb
