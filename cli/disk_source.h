// Opens what a disk of a VM definition names: an image file, or a LUN found by its identity.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/definition.h"

namespace plumb {

// A claimed LUN or locked image: as long as its descriptor is open.
struct DiskSource {
  UniqueFd fd;
  std::string label;   // "image root.img", "LUN naa.…"
  std::string device;  // the path behind it now: "/dev/sdb", "/srv/root.img"
};

// Locks the image, or finds and claims the LUN.
Result<DiskSource> open_source(const DiskDefinition& definition);

}  // namespace plumb
