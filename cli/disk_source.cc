#include "cli/disk_source.h"

#include <utility>

#include "blockdev/image_file.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"

namespace plumb {

Result<DiskSource> open_source(const DiskDefinition& definition) {
  if (definition.lun.empty()) {
    UniqueFd fd = TRY(open_image_file({definition.image, definition.read_only}));
    return DiskSource{std::move(fd), "image " + definition.image, definition.image};
  }
  const LunResolver resolver;
  const LunId id = TRY(LunId::parse(definition.lun));
  ClaimedLun claimed = TRY(claim_lun(
      resolver, id,
      {.read_only = definition.read_only, .allow_weak_identity = definition.allow_weak_identity}));
  const std::string device = resolver.device_path(claimed.lun);
  return DiskSource{std::move(claimed.fd), "LUN " + id.text(), device};
}

}  // namespace plumb
