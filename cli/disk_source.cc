#include "cli/disk_source.h"

#include <algorithm>
#include <utility>

#include "blockdev/image_file.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"
#include "rdm/mapping_file.h"
#include "rdm/transfer_limit.h"

namespace plumb {
namespace {

Result<DiskSource> open_image(const DiskDefinition& definition) {
  UniqueFd fd = TRY(open_image_file({definition.image, definition.read_only}));
  DiskSource source;
  source.fd = std::move(fd);
  source.label = "image " + definition.image;
  source.device = definition.image;
  return source;
}

// Connects while the process still may; what a reservation needs it for comes later, or never.
ReservationClient::Connect connect_now() {
  Result<UniqueFd> connection = connect_to_broker();
  return [connection = std::move(connection)]() mutable -> Result<UniqueFd> {
    if (!connection) return connection.error();
    if (connection->valid()) return std::move(connection).value();
    return make_error(ErrorKind::kNotFound,
                      "the reservation broker has ended since this VM was started, which connects "
                      "to it at its start only");
  };
}

DiskSource source_of(const DiskDefinition& definition, const LunResolver& resolver,
                     ClaimedLun claimed) {
  DiskSource source;
  source.fd = std::move(claimed.fd);
  source.wwn = claimed.lun.id.text();
  source.label = "LUN " + source.wwn;
  source.device = resolver.device_path(claimed.lun);
  source.fua = claimed.lun.fua;
  if (definition.bus == "scsi") source.to_broker = connect_now();
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
  ClaimedLun claimed = TRY(claim_once(
      resolver, id,
      {.read_only = definition.read_only, .allow_weak_identity = definition.allow_weak_identity},
      before));
  return source_of(definition, resolver, std::move(claimed));
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
  ClaimedLun claimed = TRY(claim_once(resolver, mapping.wwid,
                                      {.read_only = definition.read_only,
                                       .allow_weak_identity = mapping.allow_weak_identity,
                                       .shared = mapping.shared},
                                      before));
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
  DiskSource source = source_of(definition, resolver, std::move(claimed));
  source.mapping = std::move(open.lock);
  source.transfer_limit_bytes = limit_bytes;
  return source;
}

Result<DiskSource> open_source(const DiskDefinition& definition,
                               const std::vector<DiskSource>& before) {
  if (!definition.image.empty()) return open_image(definition);
  return definition.rdm.empty() ? open_lun(definition, before) : open_mapped(definition, before);
}

}  // namespace

Result<std::vector<DiskSource>> open_sources(const std::vector<DiskDefinition>& disks) {
  std::vector<DiskSource> sources;
  sources.reserve(disks.size());
  for (const DiskDefinition& disk : disks) sources.push_back(TRY(open_source(disk, sources)));
  return sources;
}

}  // namespace plumb
