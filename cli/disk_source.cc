#include "cli/disk_source.h"

#include <algorithm>
#include <utility>

#include "blockdev/file_device.h"
#include "blockdev/image_file.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"
#include "rdm/mapping_file.h"

namespace plumb {
namespace {

Result<DiskSource> open_image(const DiskDefinition& definition) {
  UniqueFd fd = TRY(open_image_file({definition.image, definition.read_only}));
  return DiskSource{std::move(fd), "image " + definition.image, definition.image, {}, {}, {}};
}

std::string label_of(const LunId& id) { return "LUN " + id.text(); }

// `before` are the VM's other disks: a LUN that it has already would be refused as somebody's whom
// nobody can see, or, when it is shared, not at all.
Result<ClaimedLun> claim_once(const LunResolver& resolver, const LunId& id,
                              const ClaimOptions& options, const std::vector<DiskSource>& before) {
  if (std::ranges::find(before, id.text(), &DiskSource::wwn) != before.end()) {
    return usage_error("two disks are the LUN {}; a VM can have it once", id.text());
  }
  return claim_lun(resolver, id, options);
}

Result<DiskSource> open_lun(const DiskDefinition& definition,
                            const std::vector<DiskSource>& before) {
  const LunResolver resolver;
  const LunId id = TRY(LunId::parse(definition.lun));
  ClaimedLun claimed = TRY(claim_once(
      resolver, id,
      {.read_only = definition.read_only, .allow_weak_identity = definition.allow_weak_identity},
      before));
  const std::string device = resolver.device_path(claimed.lun);
  return DiskSource{std::move(claimed.fd), label_of(id), device, id.text(), {}, {}};
}

// First the mapping's lock, whose holder is the VM to ask; then the claim; then what was recorded,
// against what is claimed and cannot change hands any more.
Result<DiskSource> open_mapped(const DiskDefinition& definition,
                               const std::vector<DiskSource>& before) {
  const LunResolver resolver;
  OpenMapping open = TRY(open_mapping(definition.rdm));
  const MappingFile& mapping = open.mapping;
  if (mapping.mode == MappingMode::kPhysical) {
    return failed(
        "mapping {} has the mode physical, which is not yet supported: create the mapping with "
        "--mode virtual",
        definition.rdm);
  }
  ClaimedLun claimed = TRY(claim_once(resolver, mapping.wwid,
                                      {.read_only = definition.read_only,
                                       .allow_weak_identity = mapping.allow_weak_identity,
                                       .shared = mapping.shared},
                                      before));
  const std::vector<std::string> found = differences(mapping, claimed.lun);
  if (!found.empty()) return failed("mapping {}: {}", definition.rdm, found.front());
  const std::string device = resolver.device_path(claimed.lun);
  return DiskSource{std::move(claimed.fd), label_of(mapping.wwid), device,
                    mapping.wwid.text(),   std::move(open.lock),   {}};
}

Result<DiskSource> open_source(const DiskDefinition& definition,
                               const std::vector<DiskSource>& before) {
  if (!definition.image.empty()) return open_image(definition);
  return definition.rdm.empty() ? open_lun(definition, before) : open_mapped(definition, before);
}

Result<DiskSource> open_and_examine(const DiskDefinition& definition,
                                    const std::vector<DiskSource>& before) {
  DiskSource source = TRY(open_source(definition, before));
  source.facts = TRY(FileDevice::examine({.fd = source.fd.get(),
                                          .label = source.label,
                                          .read_only = definition.read_only,
                                          .discard = definition.discard}));
  return source;
}

}  // namespace

Result<std::vector<DiskSource>> open_sources(const std::vector<DiskDefinition>& disks) {
  std::vector<DiskSource> sources;
  sources.reserve(disks.size());
  for (const DiskDefinition& disk : disks) sources.push_back(TRY(open_and_examine(disk, sources)));
  return sources;
}

}  // namespace plumb
