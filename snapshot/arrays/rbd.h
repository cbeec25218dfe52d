// A pool of Ceph with RBD images, by the programs rbd(8) and ceph(8), which are run without a
// shell; images are mapped by the kernel (krbd).
//
// A volume's id is its image's, which stays when the image is renamed. What is made here:
//   plumb.ARRAY.NAME           a volume; or, of size 0, what holds the name of a snapshot, whose id
//                              is this image's
//   IMAGE@plumb.ARRAY.NAME     the snapshot
//   …NAME.new                  of either: not whole yet
//   plumb.ARRAY.NAME.gone-ID   a volume that was removed while there are snapshots or clones of it;
//                              goes with the last of them
// Ceph itself is the memory: there is no state file.
//
// Several volumes are taken by several `rbd snap create` at once: of one instant only while nobody
// writes to them. A group snapshot of Ceph is none to build on: an image is in one group at most,
// and it can be neither cloned nor mapped.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct RbdConfig {
  std::string name;
  std::string pool;
  std::string pool_namespace;               // "" for the pool's own
  std::string cluster;                      // these four as in rbd(8); "" for its defaults
  std::string conf;                         //
  std::string id;                           //
  std::string keyring;                      // the file
  std::map<std::string, std::string> luns;  // LunId::text() → the image's name
  unsigned timeout_ms = 120'000;            // of a call
  unsigned take_timeout_ms = 10'000;        // of all snapshots, while guests are frozen
  unsigned copy_timeout_ms = 21'600'000;    // of a restore, or the removal of an image
  std::string rbd_program = "/usr/bin/rbd";
  std::string ceph_program = "/usr/bin/ceph";
  std::string sys_folder = "/sys/bus/rbd/devices";
  std::string device_folder = "/dev";
};

// Ceph is not asked before it is needed.
std::unique_ptr<ArrayProvider> make_rbd_array(const RbdConfig& config);

}  // namespace plumb
