// What `plumb nbd serve` serves: disks of snapshots, and of VMs that do not run.
//
// Two steps, because a process gives up its way to files between them: sources are opened, then
// disks are made of them. What else can be a disk is served by the same second step.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/block_device.h"
#include "blockdev/disk.h"
#include "blockdev/io_thread.h"
#include "blockdev/nbd/extents.h"
#include "blockdev/nbd/server.h"
#include "cli/definition.h"
#include "cli/disk_source.h"
#include "cli/vm_disks.h"

namespace plumb {

// One disk: an open file or LUN, or, with `make`, what makes a read-only device.
struct NbdSource {
  std::string name;  // of the export: "ID/DISK", "ID/VM/DISK", "VM/DISK"
  DiskDefinition definition;
  DiskSource file;
  // On the thread of all disks, which outlives it.
  std::move_only_function<Result<std::unique_ptr<BlockDevice>>(IoThread&)> make;
  std::string reads;  // the folder below which that opens files; "": it opens none
};

// A target is a snapshot, "ID", a disk of it, "ID/DISK" or "ID/VM/DISK", a VM's definition,
// "db1.toml", or a disk of that, "db1.toml/data". Disks of VMs are locked and claimed as their VM
// would have them, for reading unless `writable`. Errors: kLocked when somebody has a disk;
// kNotFound; usage: a snapshot that is to be written, two targets with the same disk.
Result<std::vector<NbdSource>> open_nbd_sources(const std::vector<std::string>& targets,
                                                bool writable);

class NbdDisks {
 public:
  // `thread` outlives this. Opens no path but what sources read.
  static Result<std::unique_ptr<NbdDisks>> start(std::vector<NbdSource> sources, IoThread& thread);

  // Of all disks, which stay this one's.
  std::vector<nbd::Export> exports() const { return exports_; }

  // After the server: nothing is at the disks any more, and what their snapshots need to know is
  // written. Errors: that cannot be.
  Result<> end();

 private:
  explicit NbdDisks(VmDisks files) : files_(std::move(files)) {}
  Result<> add(NbdSource source, IoThread& thread);

  VmDisks files_;
  std::vector<std::unique_ptr<Disk>> made_;
  std::vector<std::unique_ptr<nbd::ExtentSource>> extents_;
  std::vector<nbd::Export> exports_;
};

}  // namespace plumb
