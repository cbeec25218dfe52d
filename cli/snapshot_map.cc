// plumb snapshot map, unmap: a snapshot's disk, shown to this host read-only.
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "cli/host_config.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/snapshot_commands.h"
#include "snapshot/array_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {
namespace {

std::vector<std::string> parts_of(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const size_t slash = text.find('/');
    parts.emplace_back(text.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    text.remove_prefix(slash + 1);
  }
}

}  // namespace

Result<SnapshotDisk> find_snapshot_disk(const std::string& name) {
  const std::vector<std::string> parts = parts_of(name);
  if (parts.size() != 2 && parts.size() != 3) {
    return usage_error("'{}' names no disk of a snapshot; write ID/DISK, or ID/VM/DISK of a group",
                       name);
  }
  const SnapshotStore store = TRY(SnapshotStore::open(snapshot_folder()));
  const SnapshotSet set = TRY(store.get(parts.front()));
  if (parts.size() == 2 && set.members.size() > 1) {
    return usage_error("snapshot {} is of {} VMs; write {}/VM/{}", set.id, set.members.size(),
                       set.id, parts.back());
  }
  for (const SnapshotMember& member : set.members) {
    if (parts.size() == 3 && member.vm != parts[1]) continue;
    for (const SnapshotDisk& disk : member.disks) {
      if (disk.id == parts.back()) return disk;
    }
  }
  return make_error(ErrorKind::kNotFound, "there is no disk '{}'; see `plumb snapshot show {}`",
                    name, set.id);
}

Result<ExitCode> map_snapshot(const std::string& disk_name, bool json) {
  const SnapshotDisk disk = TRY(find_snapshot_disk(disk_name));
  ArraySet arrays = TRY(configured_array_set());
  Result<MappedVolume> mapped = TRY(arrays.get(disk.array))->map(disk.snapshot_id);
  if (!mapped) return array_error(std::move(mapped).error());
  if (json) {
    print_json({{"wwn", mapped->wwn}, {"device", mapped->device}});
  } else {
    fmt::print("{}\n", mapped->device);
  }
  return kExitOk;
}

Result<ExitCode> unmap_snapshot(const std::string& disk_name) {
  const SnapshotDisk disk = TRY(find_snapshot_disk(disk_name));
  ArraySet arrays = TRY(configured_array_set());
  Result<> unmapped = TRY(arrays.get(disk.array))->unmap(disk.snapshot_id);
  if (!unmapped) return array_error(std::move(unmapped).error());
  return kExitOk;
}

}  // namespace plumb
