// Disks for VMs made in an array: thin volumes that read as zeroes, shown to this host.
//
// In the array a disk is "NAME-xxxxxxxx", with eight random hexadecimal digits: what a failure
// leaves is removed by its name, which must be nobody else's, on whichever host. For people NAME is
// enough.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "snapshot/array_set.h"
#include "snapshot/snapshot_store.h"

namespace plumb {

struct ArrayDisk {
  ArrayVolume volume;
  MappedVolume where;
};

// Written down in a journal of `journals` first; what a death leaves, recover() removes. Errors:
// kUsage (no name, or there is a disk of that name), kArray (also: it makes no volumes).
Result<ArrayDisk> create_array_disk(const SnapshotStore& journals, ArraySet& arrays,
                                    const std::string& array, const std::string& name,
                                    uint64_t size_bytes);

// Removes a disk, by NAME or by its whole name; only what was made through plumb is found. Errors:
// kNotFound; kUsage (several are called so); kLocked: a VM has it, or a record of one of `records`
// names it.
Result<> remove_array_disk(std::span<const SnapshotStore* const> records, ArraySet& arrays,
                           const std::string& array, const std::string& name);

}  // namespace plumb
