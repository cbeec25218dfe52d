// plumb disk create, disk delete: disks made in an array.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/size.h"
#include "base/text.h"
#include "cli/array_commands.h"
#include "cli/host_config.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "snapshot/array_disks.h"
#include "snapshot/recovery.h"

namespace plumb {
namespace {

// With what was left of earlier commands removed.
Result<SnapshotStore> open_journals(ArraySet& arrays) {
  SnapshotStore journals = TRY(SnapshotStore::open(disk_journal_folder(), "disk"));
  for (const Recovered& one : recover(journals, arrays)) {
    fmt::print(stderr, "plumb: {}\n", printable(one.sentence));
  }
  return journals;
}

void print_disk(const ArrayDisk& disk) {
  const MappedVolume& where = disk.where;
  if (!where.wwn.empty()) return fmt::print("lun = \"{}\"\n", where.wwn);
  // A device without an identity is no LUN yet.
  if (where.device.starts_with("/dev/")) {
    return fmt::print("# {}: export it as a LUN, and name it by its WWN\n", where.device);
  }
  fmt::print("image = \"{}\"\n", where.device);
}

}  // namespace

Result<ExitCode> create_disk(const ArrayDiskOptions& options) {
  const uint64_t size_bytes = TRY(parse_size(options.size));
  ArraySet arrays = TRY(configured_array_set());
  const SnapshotStore journals = TRY(open_journals(arrays));
  const ArrayDisk disk =
      TRY(create_array_disk(journals, arrays, options.array, options.name, size_bytes));
  if (options.json) {
    print_json({{"name", disk.volume.name},
                {"array", options.array},
                {"size_bytes", disk.volume.size_bytes},
                {"wwn", disk.where.wwn},
                {"device", disk.where.device}});
  } else {
    print_disk(disk);
  }
  return kExitOk;
}

Result<ExitCode> delete_disk(const ArrayDiskOptions& options) {
  ArraySet arrays = TRY(configured_array_set());
  TRY(open_journals(arrays));
  const SnapshotStore snapshots = TRY(SnapshotStore::open(snapshot_folder()));
  const SnapshotStore templates = TRY(SnapshotStore::open(template_folder(), "template"));
  const SnapshotStore* const records[] = {&snapshots, &templates};
  TRY(remove_array_disk(records, arrays, options.array, options.name));
  return kExitOk;
}

}  // namespace plumb
