// Opens a raw image file for a VM: direct I/O, locked against every other VM.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

struct ImageFileConfig {
  std::string path;
  bool read_only = false;
};

// The image, open with O_DIRECT and locked (shared when read_only), for FileDevice::open(). The
// lock lasts as long as the descriptor. The content is never looked at: a raw image is raw,
// whatever a guest writes into its first sectors. Errors, each one sentence that names the path:
// missing; a folder; a device node (a LUN is named by its WWN); neither file nor device; empty; a
// size that is no multiple of 512; read-only file without read_only; no direct I/O on its file
// system; in use by another VM or disk (kLocked, holder named).
Result<UniqueFd> open_image_file(const ImageFileConfig& config);

}  // namespace plumb
