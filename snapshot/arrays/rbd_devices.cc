#include "snapshot/arrays/rbd_devices.h"

#include <sys/sysmacros.h>

#include <charconv>
#include <filesystem>

#include "base/file.h"

namespace plumb {
namespace {

// CEPH_NOSNAP and CEPH_SNAPDIR, in the kernel's include/linux/ceph/rados.h.
constexpr uint64_t kNoSnapshot = ~uint64_t{1};

std::optional<RbdDevice> device_in(const std::string& folder) {
  RbdDevice device;
  device.fsid = read_attribute(folder + "/cluster_fsid");
  device.pool = read_attribute(folder + "/pool");
  device.pool_namespace = read_attribute(folder + "/pool_ns");
  device.image_id = read_attribute(folder + "/image_id");
  const uint64_t snapshot = read_number_attribute(folder + "/snap_id", kNoSnapshot);
  if (snapshot < kNoSnapshot) device.snapshot_id = snapshot;
  const auto major = static_cast<unsigned>(read_number_attribute(folder + "/major"));
  const auto minor = static_cast<unsigned>(read_number_attribute(folder + "/minor"));
  device.number = ::makedev(major, minor);
  // "client4177"
  const std::string client = read_attribute(folder + "/client_id");
  const size_t digits = client.find_first_of("0123456789");
  if (digits != std::string::npos) {
    std::from_chars(client.data() + digits, client.data() + client.size(), device.client);
  }
  if (device.image_id.empty()) return std::nullopt;
  return device;
}

}  // namespace

std::vector<RbdDevice> rbd_devices(const std::string& folder, const std::string& device_folder) {
  std::vector<RbdDevice> all;
  std::error_code none;
  for (std::filesystem::directory_iterator at(folder, none), end; !none && at != end;
       at.increment(none)) {
    std::optional<RbdDevice> device = device_in(at->path().string());
    if (!device) continue;
    device->path = device_folder + "/rbd" + at->path().filename().string();
    all.push_back(std::move(*device));
  }
  return all;
}

}  // namespace plumb
