// Makes a raw image file. Written with zeroes from end to end, so that a durable write to it is one
// write: to a hole or an unwritten extent, a file system would have to commit its journal each
// time (three to four times the work on ext4 and XFS).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"

namespace plumb {

struct ImageCreateConfig {
  std::string path;  // must not exist
  uint64_t size_bytes = 0;
  bool sparse = false;  // only a size: quick to make, its first writes are slow
  std::function<void(uint64_t done_bytes)> progress;  // now and then; may be empty
};

// The image is on the medium, with its name, when this returns. After an error or a signal nothing
// of it is left under that name. Errors: the path exists, its folder does not, no room, a size that
// is 0 or no multiple of 4096, no direct I/O on that file system.
Result<> create_image_file(const ImageCreateConfig& config);

}  // namespace plumb
