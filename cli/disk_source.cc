#include "cli/disk_source.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "blockdev/file_device.h"
#include "blockdev/image_file.h"
#include "cli/runtime_folder.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"
#include "rdm/mapping_file.h"
#include "rdm/transfer_limit.h"
#include "snapshot/overlay_store.h"
#include "snapshot/revert_journal.h"

namespace plumb {
namespace {

Result<DiskSource> open_image(const DiskDefinition& definition) {
  DiskSource source;
  source.fd = TRY(open_image_file({definition.image, definition.read_only}));
  source.label = "image " + definition.image;
  source.device = definition.image;
  return source;
}

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
  const ClaimOptions options{.read_only = definition.read_only,
                             .allow_weak_identity = definition.allow_weak_identity};
  return source_of(resolver, TRY(claim_once(resolver, id, options, before)), options);
}

// First the mapping's lock, whose holder is the VM to ask; then the claim; then what was recorded,
// against what is claimed and cannot change hands any more.
Result<DiskSource> open_mapped(const DiskDefinition& definition,
                               const std::vector<DiskSource>& before) {
  const LunResolver resolver;
  OpenMapping open = TRY(open_mapping(definition.rdm));
  const MappingFile& mapping = open.mapping;
  const bool physical = mapping.mode == MappingMode::kPhysical;
  if (physical && definition.bus != "scsi") {
    return usage_error(
        "mapping {} has the mode physical: its LUN takes the guest's SCSI commands, so the disk "
        "needs bus=scsi",
        definition.rdm);
  }
  const ClaimOptions options{.read_only = definition.read_only,
                             .allow_weak_identity = mapping.allow_weak_identity,
                             .shared = mapping.shared};
  ClaimedLun claimed = TRY(claim_once(resolver, mapping.wwid, options, before));
  const std::vector<std::string> found = differences(mapping, claimed.lun);
  if (!found.empty()) return failed("mapping {}: {}", definition.rdm, found.front());
  uint64_t limit_bytes = 0;
  if (physical) {
    Result<uint64_t> limit = transfer_limit(claimed.lun);
    if (!limit) {
      return failed("mapping {} has the mode physical: {}", definition.rdm, limit.error().message);
    }
    limit_bytes = *limit;
  }
  DiskSource source = source_of(resolver, std::move(claimed), options);
  source.mapping = std::move(open.lock);
  source.transfer_limit_bytes = limit_bytes;
  return source;
}

Result<DiskSource> open_source(const DiskDefinition& definition,
                               const std::vector<DiskSource>& before) {
  if (!definition.image.empty()) return open_image(definition);
  return definition.rdm.empty() ? open_lun(definition, before) : open_mapped(definition, before);
}

// Of what others write, and of what does not pass by the block layer, a VM can keep nothing.
Result<> open_overlay(const DiskDefinition& definition, DiskSource& source) {
  if (definition.read_only || source.claim.shared || source.physical()) return {};
  source.overlay =
      TRY(OverlayStore(overlay_folder())
              .open_for_vm(source.identity(), source.fd.get(), [&](const std::string& why) {
                log::warning("disk {}: {}", definition.id, why);
              }));
  return {};
}

// Before the disk is locked, so that a revert which is at it gets on; and after, because it may
// have begun in between.
Result<> check_whole(const DiskDefinition& definition, const std::string& image,
                     const std::string& wwn) {
  return check_not_reverting(snapshot_folder() + "/journals", disk_identity(image, wwn),
                             "disk " + definition.id);
}

Result<DiskSource> open_and_examine(const DiskDefinition& definition,
                                    const std::vector<DiskSource>& before) {
  TRY(check_whole(definition, definition.image, definition.lun));
  DiskSource source = TRY(open_source(definition, before));
  TRY(check_whole(definition, definition.image, source.wwn));
  TRY(open_overlay(definition, source));
  source.facts = TRY(FileDevice::examine({.fd = source.fd.get(),
                                          .label = source.label,
                                          .read_only = definition.read_only,
                                          .discard = definition.discard}));
  return source;
}

}  // namespace

DiskSource source_of(const LunResolver& resolver, ClaimedLun claimed, const ClaimOptions& options) {
  DiskSource source;
  source.fd = std::move(claimed.fd);
  source.label = "LUN " + claimed.lun.id.text();
  source.device = resolver.device_path(claimed.lun);
  source.wwn = claimed.lun.id.text();
  source.claim = options;
  source.fua = claimed.lun.fua;
  return source;
}

Result<std::vector<DiskSource>> open_sources(const std::vector<DiskDefinition>& disks) {
  std::vector<DiskSource> sources;
  sources.reserve(disks.size());
  for (const DiskDefinition& disk : disks) sources.push_back(TRY(open_and_examine(disk, sources)));
  return sources;
}

}  // namespace plumb
