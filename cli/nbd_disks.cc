#include "cli/nbd_disks.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/cow_snapshot_device.h"
#include "cli/host_config.h"
#include "cli/runtime_folder.h"
#include "cli/snapshot_commands.h"
#include "snapshot/array_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {
namespace {

// ---- snapshots ----

struct NamedDisk {
  std::string name;
  SnapshotDisk disk;
};

// "ID" is all disks of a snapshot.
Result<std::vector<NamedDisk>> snapshot_disks(const std::string& target) {
  std::vector<NamedDisk> disks;
  if (target.find('/') != std::string::npos) {
    SnapshotDisk disk = TRY(find_snapshot_disk(target));
    disks.push_back({target, std::move(disk)});
    return disks;
  }
  const SnapshotStore store = TRY(SnapshotStore::open(snapshot_folder()));
  const SnapshotSet set = TRY(store.get(target));
  for (const SnapshotMember& member : set.members) {
    const std::string vm = set.members.size() > 1 ? "/" + member.vm : "";
    for (const SnapshotDisk& disk : member.disks) {
      disks.push_back({set.id + vm + "/" + disk.id, disk});
    }
  }
  return disks;
}

Result<NbdSource> open_snapshot_disk(const NamedDisk& named, ArraySet& arrays) {
  NbdSource source;
  source.name = named.name;
  const SnapshotDisk& disk = named.disk;
  if (disk.array == kOverlayArrayName) {
    Result<std::unique_ptr<CowReader>> reader = arrays.overlays()->read(disk.snapshot_id);
    if (!reader) return array_error(std::move(reader).error());
    source.make = [reader = std::move(*reader)](
                      IoThread& thread) mutable -> Result<std::unique_ptr<BlockDevice>> {
      constexpr uint32_t kBlockBytes = 512;
      return TRY(CowSnapshotDevice::open(std::move(reader), kBlockBytes, thread));
    };
    source.reads = overlay_folder();  // overlays that its VM goes on to make
    return source;
  }
  Result<MappedVolume> mapped = TRY(arrays.get(disk.array))->map(disk.snapshot_id);
  if (!mapped) return array_error(std::move(mapped).error());
  source.definition.lun = mapped->wwn;
  if (mapped->wwn.empty()) source.definition.image = mapped->device;
  source.definition.id = named.name;
  source.definition.read_only = true;
  std::vector<DiskSource> opened = TRY(open_sources({source.definition}));
  source.file = std::move(opened.front());
  return source;
}

// ---- VMs that do not run ----

struct DefinitionTarget {
  std::string file;
  std::string disk;  // "" for all
};

std::optional<DefinitionTarget> definition_target(const std::string& target) {
  constexpr std::string_view kEnding = ".toml";
  const size_t at = target.rfind(kEnding);
  if (at == std::string::npos) return std::nullopt;
  const size_t end = at + kEnding.size();
  if (end == target.size()) return DefinitionTarget{target, ""};
  if (target[end] != '/') return std::nullopt;
  return DefinitionTarget{target.substr(0, end), target.substr(end + 1)};
}

Result<VmDefinition> read_definition(const std::string& file) {
  VmDefinition definition;
  TRY(read_toml(TRY(read_file(file)), file, definition));
  TRY(complete(definition));
  for (DiskDefinition& disk : definition.disks) {
    for (std::string* path : {&disk.image, &disk.rdm}) {
      if (!path->empty()) *path = std::filesystem::absolute(*path).string();
    }
  }
  return definition;
}

Result<> check_writable(const DiskDefinition& disk, const DiskSource& source) {
  if (disk.read_only || !source.physical()) return {};
  return usage_error(
      "disk {} is a LUN in physical mode, which its guest writes by SCSI commands; serve it "
      "without --writable",
      disk.id);
}

Result<std::vector<NbdSource>> open_vm_disks(const DefinitionTarget& target, bool writable) {
  const VmDefinition definition = TRY(read_definition(target.file));
  if (const pid_t pid = running_pid(definition.name); pid != 0) {
    return make_error(ErrorKind::kLocked,
                      "VM '{}' runs, as pid {}, and has its disks; stop it, or serve a snapshot",
                      definition.name, pid);
  }
  std::vector<DiskDefinition> disks = definition.disks;
  std::erase_if(disks, [&target](const DiskDefinition& disk) {
    return !target.disk.empty() && disk.id != target.disk;
  });
  if (disks.empty()) {
    return make_error(ErrorKind::kNotFound, "definition {} has no disk '{}'", target.file,
                      target.disk);
  }
  for (DiskDefinition& disk : disks) disk.read_only = disk.read_only || !writable;
  std::vector<DiskSource> opened = TRY(open_sources(disks));
  std::vector<NbdSource> sources;
  for (size_t i = 0; i < disks.size(); ++i) {
    TRY(check_writable(disks[i], opened[i]));
    NbdSource& source = sources.emplace_back();
    source.name = definition.name + "/" + disks[i].id;
    source.definition = disks[i];
    source.definition.id = source.name;
    source.file = std::move(opened[i]);
  }
  return sources;
}

// ---- both ----

Result<std::vector<NbdSource>> open_target(const std::string& target, bool writable,
                                           ArraySet& arrays) {
  if (const auto definition = definition_target(target)) {
    return open_vm_disks(*definition, writable);
  }
  if (writable) {
    return usage_error(
        "'{}' is a snapshot, and is not written; --writable is for the definition of a VM", target);
  }
  std::vector<NbdSource> sources;
  for (const NamedDisk& named : TRY(snapshot_disks(target))) {
    sources.push_back(TRY(open_snapshot_disk(named, arrays)));
  }
  return sources;
}

constexpr int kEndSeconds = 30;

}  // namespace

Result<std::vector<NbdSource>> open_nbd_sources(const std::vector<std::string>& targets,
                                                bool writable) {
  ArraySet arrays = TRY(configured_array_set());
  std::vector<NbdSource> sources;
  for (const std::string& target : targets) {
    for (NbdSource& source : TRY(open_target(target, writable, arrays))) {
      if (std::ranges::find(sources, source.name, &NbdSource::name) != sources.end()) {
        return usage_error("disk '{}' is asked for twice", source.name);
      }
      sources.push_back(std::move(source));
    }
  }
  return sources;
}

Result<std::unique_ptr<NbdDisks>> NbdDisks::start(std::vector<NbdSource> sources,
                                                  IoThread& thread) {
  VmDisks::Config config;
  config.failed = [](const VmDisks::Failure& failure) { log::warning("{}", failure.message); };
  std::unique_ptr<NbdDisks> disks(
      new NbdDisks(TRY(VmDisks::open(VmDefinition(), {}, std::move(config)))));
  for (NbdSource& source : sources) TRY(disks->add(std::move(source), thread));
  return disks;
}

Result<> NbdDisks::add(NbdSource source, IoThread& thread) {
  nbd::Export& made = exports_.emplace_back();
  made.name = source.name;
  made.writable = !source.definition.read_only;
  if (source.make) {
    std::unique_ptr<BlockDevice> device = TRY(source.make(thread));
    made_.push_back(std::make_unique<Disk>(Disk::Config{.id = source.name, .limit = {}},
                                           std::move(device), thread));
    made.disk = made_.back().get();
    made.writable = false;
    return {};
  }
  // On the one thread of all; a client gets the errors, and the guest's limits are not its own.
  DiskDefinition& definition = source.definition;
  definition.bus = "virtio-blk";
  definition.engine = "auto";
  definition.on_error = "report";
  definition.iops = definition.bandwidth_bytes = 0;
  const bool has_holes = !source.file.facts.block_device;
  TRY(files_.attach(definition, std::move(source.file), thread));
  made.disk = &files_.at(files_.count() - 1);
  if (!has_holes) return {};
  extents_.push_back(std::make_unique<nbd::FileExtents>(files_.fd_of(definition.id),
                                                        made.disk->info().logical_block_size));
  made.allocation = extents_.back().get();
  return {};
}

Result<> NbdDisks::end() {
  TRY(files_.drain(kEndSeconds));
  return files_.end_overlays(kEndSeconds);
}

}  // namespace plumb
