// LunResolver: finds the block device of a LUN by its identity, from sysfs.
//
// A dm-multipath map wins over its paths. Exactly one device may answer to an identity; none or
// several is a refusal that names what was seen.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "rdm/lun_id.h"

namespace plumb {

// Where the kernel's views are; other roots are for tests.
struct SystemRoots {
  std::string sys = "/sys";
  std::string proc = "/proc";
  std::string dev = "/dev";
};

struct LunPath {
  std::string name;   // "sda"
  std::string state;  // as the kernel says: "running", "offline", "live", …
};

struct Lun {
  enum class Transport : uint8_t { kScsi, kNvme, kMultipath, kVolume };

  LunId id;
  Transport transport;
  std::string name;  // "sda", "nvme0n1", "dm-3": for messages; it may change at any rescan
  dev_t number = 0;  // major and minor
  uint64_t size_bytes = 0;
  uint32_t logical_block_size = 0;
  uint32_t physical_block_size = 0;
  std::string vendor;
  std::string model;
  std::string serial;
  std::string write_cache;  // "write through" or "write back"
  bool fua = false;
  bool read_only = false;
  std::vector<LunPath> paths;  // one for a LUN without multipath
};

const char* transport_name(Lun::Transport transport);

class LunResolver {
 public:
  explicit LunResolver(SystemRoots roots = {}) : roots_(std::move(roots)) {}

  // Every LUN with an identity, sorted by name; paths of a multipath map are in the map's entry.
  std::vector<Lun> list() const;

  // The one LUN with this identity. Errors: none; several that no multipath map joins.
  Result<Lun> resolve(const LunId& id) const;

  // The sysfs folder of the block device major:minor; it may not exist.
  std::string folder_of(dev_t number) const;

  // The identity of the whole device major:minor now; an error when it has none.
  Result<LunId> identity_of(dev_t number) const;

  const SystemRoots& roots() const { return roots_; }

  // "/dev/sda"
  std::string device_path(const Lun& lun) const { return roots_.dev + "/" + lun.name; }

 private:
  SystemRoots roots_;
};

}  // namespace plumb
