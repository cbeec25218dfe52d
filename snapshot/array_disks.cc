#include "snapshot/array_disks.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/uuid.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/recovery.h"

namespace plumb {
namespace {

constexpr size_t kEndingBytes = 9;  // "-1a2b3c4d"

template <typename T>
Result<T> of_array(Result<T> result) {
  if (result) return result;
  return array_error(std::move(result).error());
}

Result<> check_name(const std::string& name) {
  constexpr size_t kMaxBytes = ArrayProvider::kMaxNameBytes - kEndingBytes;
  if (is_array_name(name) && name.size() <= kMaxBytes) return {};
  return usage_error(
      "'{}' cannot be a disk's name in an array; use small letters, digits and '-', {} at most",
      name, kMaxBytes);
}

bool is_called(const ArrayVolume& volume, const std::string& name) {
  if (volume.name == name) return true;
  if (volume.name.size() != name.size() + kEndingBytes || !volume.name.starts_with(name + "-")) {
    return false;
  }
  return std::ranges::all_of(volume.name.substr(name.size() + 1), [](char c) {
    return std::isxdigit(static_cast<unsigned char>(c)) != 0;
  });
}

Result<std::vector<ArrayVolume>> called(ArrayProvider& array, const std::string& name) {
  std::vector<ArrayVolume> volumes = TRY(of_array(array.list_volumes(name)));
  std::erase_if(volumes, [&](const ArrayVolume& one) { return !is_called(one, name); });
  return volumes;
}

Result<> check_unnamed(const SnapshotStore& records, const std::string& array,
                       const ArrayVolume& volume) {
  for (const SnapshotSet& set : records.list().sets) {
    for (const SnapshotMember& member : set.members) {
      for (const SnapshotDisk& disk : member.disks) {
        if (disk.array != array || disk.volume_id != volume.id) continue;
        return make_error(ErrorKind::kLocked,
                          "disk {} of array {} is needed by {} {}; delete that first "
                          "(`plumb {} delete {}`)",
                          volume.name, array, records.what(), set.id, records.what(), set.id);
      }
    }
  }
  return {};
}

// An array cannot tell whether a VM of this host has the LUN; its claim can.
Result<> check_unclaimed(ArrayProvider& array, const ArrayVolume& volume) {
  const MappedVolume mapped = TRY(of_array(array.map(volume.id)));
  if (mapped.wwn.empty()) return {};
  const LunResolver resolver;
  TRY(claim_lun(resolver, TRY(LunId::parse(mapped.wwn)), {.allow_weak_identity = true}));
  return {};
}

}  // namespace

Result<ArrayDisk> create_array_disk(const SnapshotStore& journals, ArraySet& arrays,
                                    const std::string& array_name, const std::string& name,
                                    uint64_t size_bytes) {
  TRY(check_name(name));
  ArrayProvider* array = TRY(arrays.get(array_name));
  if (!array->abilities().provisions) {
    return array_error(
        failed("array {} makes no volumes; make one by the array's own means", array_name));
  }
  if (!TRY(called(*array, name)).empty()) {
    return usage_error("there is a disk {} in array {} already; give another name", name,
                       array_name);
  }
  const std::string unique = TRY(Uuid::random()).text();
  const std::string full = name + "-" + unique.substr(0, kEndingBytes - 1);
  SnapshotJournal journal =
      TRY(journals.begin(unique, {{"volumes", {{{"array", array_name}, {"name", full}}}}}));
  const auto make = [&]() -> Result<ArrayDisk> {
    ArrayDisk disk;
    disk.volume = TRY(of_array(array->create(full, size_bytes)));
    disk.where = TRY(of_array(array->map(disk.volume.id)));
    return disk;
  };
  Result<ArrayDisk> made = make();
  if (!made && !remove_made(arrays, journal.content())) return made;
  TRY(journal.remove());
  return made;
}

Result<> remove_array_disk(std::span<const SnapshotStore* const> records, ArraySet& arrays,
                           const std::string& array_name, const std::string& name) {
  TRY(check_array_name(array_name, name));
  ArrayProvider* array = TRY(arrays.get(array_name));
  const std::vector<ArrayVolume> found = TRY(called(*array, name));
  if (found.empty()) {
    return make_error(ErrorKind::kNotFound, "plumb has made no disk {} in array {}", name,
                      array_name);
  }
  if (found.size() > 1) {
    return usage_error("{} disks of array {} are called {}, such as {}; give the whole name",
                       found.size(), array_name, name, found.front().name);
  }
  const ArrayVolume& volume = found.front();
  for (const SnapshotStore* store : records) TRY(check_unnamed(*store, array_name, volume));
  if (volume.whole) TRY(check_unclaimed(*array, volume));
  Result<> removed = array->remove(volume.id);
  return of_array(std::move(removed));
}

}  // namespace plumb
