// Opens a disk of a VM definition: an image file, or a LUN found by its identity.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/disk.h"
#include "blockdev/io_thread.h"
#include "cli/definition.h"

namespace plumb {

// A claimed LUN or locked image: as long as its descriptor is open.
struct DiskSource {
  UniqueFd fd;
  std::string label;   // "image root.img", "LUN naa.…"
  std::string device;  // the path behind it now: "/dev/sdb", "/srv/root.img"
};

struct OpenDisk {
  std::unique_ptr<IoThread> thread;
  std::unique_ptr<Disk> disk;
  std::string device;
};

// Locks the image, or finds and claims the LUN.
Result<DiskSource> open_source(const DiskDefinition& definition);

// Makes a disk of it, on an I/O thread of its own.
Result<OpenDisk> open_disk(const DiskDefinition& definition, DiskSource source);

}  // namespace plumb
