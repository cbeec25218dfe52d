// A thin pool of LVM, by the program lvm(8), which is run without a shell.
//
// A volume's id is VG/LV. What is made here is VG/plumb.NAME, is not activated at boot, and carries
// tags that say of which array it is (plumb:ARRAY), what it is, and of which volume a snapshot is.
// LVM itself is the memory: there is no state file.
//
// Several volumes are taken by several lvcreate calls, one after the other: of one instant only
// while nobody writes to them.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct LvmThinConfig {
  std::string name;
  std::string volume_group;
  std::string pool;                         // the thin pool in it
  std::map<std::string, std::string> luns;  // LunId::text() → the volume's name in the group
  std::string program = "/usr/sbin/lvm";
  unsigned timeout_ms = 120'000;  // of a call
};

// LVM is not asked before it is needed.
std::unique_ptr<ArrayProvider> make_lvm_thin_array(const LvmThinConfig& config);

}  // namespace plumb
