#include "cli/disk_source.h"

#include <utility>

#include "base/log.h"
#include "base/size.h"
#include "blockdev/file_device.h"
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

Result<OpenDisk> open_disk(const DiskDefinition& definition, DiskSource source) {
  const EngineKind engine = TRY(parse_engine_kind(definition.engine));
  OpenDisk open;
  // Thread names end at 15 characters (prctl(2), PR_SET_NAME).
  open.thread =
      TRY(IoThread::start({.name = ("io-" + definition.id).substr(0, 15), .engine = engine}));
  std::unique_ptr<FileDevice> device = TRY(FileDevice::open({.fd = std::move(source.fd),
                                                             .label = source.label,
                                                             .read_only = definition.read_only,
                                                             .discard = definition.discard},
                                                            *open.thread));
  const CacheMode cache =
      definition.cache == "writeback" ? CacheMode::kWriteback : CacheMode::kWritethrough;
  open.disk = std::make_unique<Disk>(
      Disk::Config{.id = definition.id, .serial = definition.serial, .cache = cache},
      std::move(device), *open.thread);
  open.device = source.device;
  log::info("disk {}: {} at {}, {}, {}, {} ({})", definition.id, source.label, source.device,
            format_size(open.disk->info().size_bytes), definition.cache, open.thread->engine_name(),
            open.thread->engine_reason());
  return open;
}

}  // namespace plumb
