// Where the disks of a guest of libvirt are on this host.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "base/result.h"
#include "rdm/lun_resolver.h"
#include "snapshot/domain_xml.h"

namespace plumb {

// As VmDisks::medium_of() tells of a disk of ours. Errors: an image that is no file, or, where that
// can be seen, that no process has open; a block device that is no LUN.
Result<nlohmann::json> media_of(const std::vector<DomainDisk>& disks, const LunResolver& resolver);

}  // namespace plumb
