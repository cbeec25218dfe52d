// What an open image or block device is: its size, block sizes, limits and cache, from the
// descriptor and from sysfs.
#pragma once

#include <string>

#include "base/result.h"
#include "blockdev/block_device.h"

namespace plumb {

struct FileFacts {
  BlockInfo info;
  bool block_device = false;
  // So many durable writes in flight share flushes instead of using RWF_DSYNC; 0: none ever does.
  // Where RWF_DSYNC means a flush for each: a file on a device with a volatile cache and without
  // FUA, or on one that is not known.
  uint32_t shared_flush_depth = 0;
};

struct FileFactsQuery {
  int fd = -1;
  std::string label;  // names the file in errors
  bool read_only = false;
  bool discard = true;  // offer discard where the file system or the device can
  std::string sysfs_root = "/sys";
};

// Errors: neither regular file nor block device, an empty one, a size that is no multiple of its
// block size, block sizes that are not supported.
Result<FileFacts> find_file_facts(const FileFactsQuery& query);

// The size of an open file or block device as it is now; `label` names it in errors.
Result<uint64_t> file_size_bytes(int fd, const std::string& label);

}  // namespace plumb
