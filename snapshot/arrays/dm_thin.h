// A pool of dm-thin that the administrator has made (thin-pool target, no LVM): each volume is a
// thin device of device-mapper with a name, each snapshot a thin id.
//
// A volume's id is its name in device-mapper. What is made here is called plumb.ARRAY.NAME there,
// and is a device only while it is mapped. Which id has which name is in the state file, durable
// before the pool is told. A volume behind a LUN that this host exports is known by the WWN that
// the configuration gives it.
//
// take() suspends all volumes, makes the snapshots and resumes the volumes: one instant for all. A
// second process resumes them should this one die or take too long.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/arrays/device_mapper.h"

namespace plumb {

struct DmThinConfig {
  std::string name;
  std::string pool;                         // in device-mapper: "pool0"
  std::string state_path;                   // of the state file
  std::map<std::string, std::string> luns;  // LunId::text() → the volume's name
  unsigned take_limit_ms = 10'000;          // then the volumes are resumed, whatever is left
};

// Whether the pool is there is asked by health() and prepare().
std::unique_ptr<ArrayProvider> make_dm_thin_array(const DmThinConfig& config,
                                                  std::unique_ptr<DeviceMapper> device_mapper);

}  // namespace plumb
