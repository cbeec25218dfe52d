// What the programs rbd(8) and ceph(8) write with --format json, read strictly. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct RbdSnapshot {
  uint64_t id = 0;
  std::string name;
  uint64_t size_bytes = 0;
};

struct RbdImage {
  std::string id;  // stays when the image is renamed
  std::string name;
  uint64_t size_bytes = 0;
  std::vector<RbdSnapshot> snapshots;  // without those in the trash; only of images()
};

// What keeps a cluster from being well; both are "" when nothing does.
struct RbdHealth {
  std::string stopped;  // why writes to the pool do not complete
  std::string ill;      // what else Ceph calls an error
};

namespace rbd_answer {
// `rbd ls -l`: what can be opened, without images of format 1.
Result<std::vector<RbdImage>> images(std::string_view text);
// `rbd ls`: all names.
Result<std::vector<std::string>> names(std::string_view text);
// `rbd info`
Result<RbdImage> image(std::string_view text);
// `rbd status`: the numbers of the clients that have the image open for writing.
Result<std::vector<uint64_t>> watchers(std::string_view text);
// `ceph fsid`
Result<std::string> fsid(std::string_view text);
// `ceph df detail`: of one pool, with its quota.
Result<ArrayCapacity> capacity(std::string_view text, std::string_view pool);
// `ceph health detail`
Result<RbdHealth> health(std::string_view text, std::string_view pool);
}  // namespace rbd_answer

}  // namespace plumb
