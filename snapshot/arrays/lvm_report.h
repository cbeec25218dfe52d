// What LVM knows of the volumes in a volume group, from `lvs --reportformat json`.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

struct LvmVolume {
  std::string name;
  std::string pool;    // "" outside of a thin pool
  std::string origin;  // of a snapshot, while LVM knows: the volume's name
  std::string path;    // of its device, "/dev/vg0/data"
  dev_t number = 0;    // 0 while it is not active
  bool open = false;   // somebody has the device open
  uint64_t size_bytes = 0;
  std::vector<std::string> tags;
  // Of a thin pool:
  double data_percent = 0;
  double metadata_percent = 0;
  std::string health;  // "" when well
  bool check_needed = false;

  bool has_tag(std::string_view tag) const;
  // Of a tag "BEGINNING…", what follows; "" without one.
  std::string tag_after(std::string_view beginning) const;
};

// The columns that parse_lvs() needs, for lvs -o, in bytes without a unit.
inline constexpr const char* kLvsColumns =
    "lv_name,pool_lv,origin,lv_path,lv_kernel_major,lv_kernel_minor,lv_device_open,lv_size,lv_tags,"
    "data_percent,metadata_percent,lv_health_status,lv_check_needed";

// Errors: not what lvs writes. Pure.
Result<std::vector<LvmVolume>> parse_lvs(std::string_view text);

}  // namespace plumb
