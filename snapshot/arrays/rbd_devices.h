// The images of Ceph that the kernel shows as block devices (krbd), from sysfs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

struct RbdDevice {
  std::string path;  // "/dev/rbd0"
  dev_t number = 0;
  std::string fsid;  // of the cluster
  std::string pool;
  std::string pool_namespace;  // "" for the pool's own
  std::string image_id;
  std::optional<uint64_t> snapshot_id;  // none: the image itself
  uint64_t client = 0;                  // by which `rbd status` knows this kernel
};

// `folder` is /sys/bus/rbd/devices; what goes away meanwhile is left out. None without the module.
std::vector<RbdDevice> rbd_devices(const std::string& folder, const std::string& device_folder);

}  // namespace plumb
