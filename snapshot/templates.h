// Templates: machines to make VMs from. A template is a record like a snapshot's (snapshot_set.h)
// of one VM, whose disks are volumes of its own, each with a snapshot that VMs are cloned from; it
// cannot be started, and needs no VM or snapshot any more.
//
// Each function writes down in a journal what it is about to make; what a death leaves, recover()
// removes. Blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/array_set.h"
#include "snapshot/snapshot_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {

class Templates {
 public:
  // Both outlive this; `store` is that of templates.
  Templates(const SnapshotStore& store, ArraySet& arrays) : store_(store), arrays_(arrays) {}

  // A template of one VM of a snapshot, in the arrays of its disks. Errors: the name is taken.
  Result<> create(const std::string& name, const SnapshotSet& from, const SnapshotMember& member,
                  const std::string& note);

  // One whose disks are new volumes of `array`, filled by `fill` with a path to write to each; it
  // must be made durable by this. `like`: what it is of; its disks say sizes only.
  using Fill = std::function<Result<>(size_t disk, const std::string& path)>;
  Result<> import(SnapshotSet like, const std::string& array, const Fill& fill);

  // The disks of a new VM, and the journal that is to be removed once `file`, its definition, is
  // written; until then a death takes them away again.
  struct DeployedDisk {
    std::string id;
    MappedVolume volume;
  };
  struct Deployment {
    SnapshotMember source;
    std::vector<DeployedDisk> disks;
    SnapshotJournal journal;
  };
  Result<Deployment> deploy(const std::string& name, const std::string& vm,
                            const std::string& file);
  // Nothing is left of it.
  Result<> give_up(Deployment& deployment);

  // Shows a template's disks to this host, read-only, until the next unmap().
  Result<std::vector<MappedVolume>> map(const SnapshotMember& member);
  Result<> unmap(const SnapshotMember& member);

  // VMs that were deployed go on.
  Result<> remove(const std::string& name);

 private:
  Result<> finish(const SnapshotSet& set, SnapshotJournal& journal, Result<> made);

  const SnapshotStore& store_;
  ArraySet& arrays_;
};

}  // namespace plumb
