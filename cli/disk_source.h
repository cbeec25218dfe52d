// Opens a disk of a VM definition: an image file, or a LUN found by its identity, on an I/O thread
// of its own.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/disk.h"
#include "blockdev/io_thread.h"
#include "cli/definition.h"

namespace plumb {

struct OpenDisk {
  std::unique_ptr<IoThread> thread;
  std::unique_ptr<Disk> disk;
  std::string device;  // the path behind it now: "/dev/sdb", "/srv/root.img"
};

// The image is locked, or the LUN claimed, as long as the result lives.
Result<OpenDisk> open_disk(const DiskDefinition& definition);

}  // namespace plumb
