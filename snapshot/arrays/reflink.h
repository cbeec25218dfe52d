// Images on a file system with reflinks (XFS, Btrfs): a snapshot shares all blocks of the image
// until one of the two is written (FICLONE, ioctl_ficlonerange(2)).
//
// A volume is an image file anywhere below the folder, on the same file system; its id is its path.
// Snapshots are FOLDER/.plumb-snapshots/NAME; volumes made here are FOLDER/NAME.img, and carry
// their name in the extended attribute user.plumb.made. What is being made is
// .plumb-snapshots/NAME.partial until it is durable. Below the folder no symbolic link is followed.
//
// Several images are cloned one after the other: of one instant only while nobody writes to them.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct ReflinkConfig {
  std::string name;
  std::string folder;  // absolute
};

// Errors: no such folder. Whether it can do reflinks is asked by prepare() and health().
Result<std::unique_ptr<ArrayProvider>> open_reflink_array(const ReflinkConfig& config);

}  // namespace plumb
