#include "snapshot/templates.h"

#include <unistd.h>

#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/uuid.h"
#include "snapshot/recovery.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// What is made for one disk; names that nobody else gives, on whichever host: what a failure leaves
// is removed by its name.
struct Names {
  std::string array;
  std::string volume;
  std::string snapshot;
};

Result<std::vector<Names>> new_names(const std::vector<SnapshotDisk>& disks,
                                     const std::string& array) {
  const std::string unique = TRY(Uuid::random()).text();
  std::vector<Names> names;
  names.reserve(disks.size());
  for (const SnapshotDisk& disk : disks) {
    names.push_back({array.empty() ? disk.array : array, array_name_of(unique, "template", disk.id),
                     array_name_of(unique, "template's snapshot", disk.id)});
  }
  return names;
}

Json journal_of(const std::vector<Names>& names) {
  Json volumes = Json::array();
  Json snapshots = Json::array();
  for (const Names& one : names) {
    volumes.push_back({{"array", one.array}, {"name", one.volume}});
    snapshots.push_back({{"array", one.array}, {"name", one.snapshot}});
  }
  return {{"volumes", volumes}, {"snapshots", snapshots}};
}

template <typename T>
Result<T> of_array(Result<T> result) {
  if (result) return result;
  return array_error(std::move(result).error());
}

// A disk of a template: the volume, and a snapshot of it.
Result<SnapshotDisk> adopt(ArrayProvider& array, ArrayVolume volume, const std::string& disk_id,
                           const std::string& snapshot_name) {
  const ArrayProvider::SnapshotRequest request{volume, snapshot_name};
  auto prepared = TRY(of_array(array.prepare({&request, 1})));
  TRY(of_array(prepared->take()));
  const std::vector<ArraySnapshot> taken = TRY(of_array(prepared->finish()));
  SnapshotDisk disk;
  disk.id = disk_id;
  disk.source.size_bytes = volume.size_bytes;
  disk.array = array.name();
  disk.volume_id = std::move(volume.id);
  disk.snapshot_id = taken.front().id;
  return disk;
}

// For people who look at their array: small letters, digits and '-' of the VM's and the disk's
// name.
std::string volume_name_of(const std::string& vm, const std::string& disk,
                           const std::string& unique) {
  std::string name;
  for (const char c : fmt::format("{}-{}", vm, disk)) {
    const auto byte = static_cast<unsigned char>(c);
    name += std::isalnum(byte) != 0 ? static_cast<char>(std::tolower(byte)) : '-';
  }
  const std::string ending = "-" + unique.substr(0, 8);
  return name.substr(0, ArrayProvider::kMaxNameBytes - ending.size()) + ending;
}

}  // namespace

Result<> Templates::finish(const SnapshotSet& set, SnapshotJournal& journal, Result<> made) {
  if (made) made = store_.add(set);
  if (!made && !remove_made(arrays_, journal.content())) return made;
  Result<> removed = journal.remove();
  return made ? std::move(removed) : std::move(made);
}

Result<> Templates::create(const std::string& name, const SnapshotSet& from,
                           const SnapshotMember& member, const std::string& note) {
  if (store_.get(name)) return usage_error("there is a template '{}' already", name);
  SnapshotSet set = from;
  set.id = name;
  set.note = note.empty() ? from.note : note;
  set.members = {member};
  SnapshotMember& made = set.members.front();
  made.parent = from.id;
  made.disks.clear();
  const std::vector<Names> names = TRY(new_names(member.disks, ""));
  SnapshotJournal journal = TRY(store_.begin(name, journal_of(names)));
  const auto copy = [&]() -> Result<> {
    for (size_t i = 0; i < names.size(); ++i) {
      const SnapshotDisk& disk = member.disks[i];
      ArrayProvider* array = TRY(arrays_.get(disk.array));
      ArrayVolume volume = TRY(of_array(array->clone(disk.snapshot_id, names[i].volume)));
      made.disks.push_back(TRY(adopt(*array, std::move(volume), disk.id, names[i].snapshot)));
    }
    return {};
  };
  Result<> copied = copy();
  return finish(set, journal, std::move(copied));
}

Result<> Templates::import(SnapshotSet like, const std::string& array_name, const Fill& fill) {
  const std::string name = like.id;
  if (store_.get(name)) return usage_error("there is a template '{}' already", name);
  ArrayProvider* array = TRY(arrays_.get(array_name));
  if (!array->abilities().provisions) {
    return array_error(failed("array {} makes no volumes; import into one that does", array_name));
  }
  SnapshotMember& member = like.members.front();
  const std::vector<SnapshotDisk> disks = std::exchange(member.disks, {});
  const std::vector<Names> names = TRY(new_names(disks, array_name));
  SnapshotJournal journal = TRY(store_.begin(name, journal_of(names)));
  const auto copy = [&]() -> Result<> {
    for (size_t i = 0; i < disks.size(); ++i) {
      ArrayVolume volume =
          TRY(of_array(array->create(names[i].volume, disks[i].source.size_bytes)));
      const MappedVolume mapped = TRY(of_array(array->map(volume.id)));
      TRY(fill(i, mapped.device));
      TRY(of_array(array->unmap(volume.id)));
      member.disks.push_back(TRY(adopt(*array, std::move(volume), disks[i].id, names[i].snapshot)));
    }
    return {};
  };
  Result<> copied = copy();
  return finish(like, journal, std::move(copied));
}

Result<Templates::Deployment> Templates::deploy(const std::string& name, const std::string& vm,
                                                const std::string& file) {
  const SnapshotSet set = TRY(store_.get(name));
  const SnapshotMember& member = set.members.front();
  const std::string unique = TRY(Uuid::random()).text();
  Json volumes = Json::array();
  for (const SnapshotDisk& disk : member.disks) {
    volumes.push_back({{"array", disk.array}, {"name", volume_name_of(vm, disk.id, unique)}});
  }
  // An id of its own: deployments of one template do not wait for each other.
  const Json content{{"volumes", volumes}, {"file", file}};
  Deployment deployment{member, {}, TRY(store_.begin("deploy-" + vm, content))};
  const auto copy = [&]() -> Result<> {
    for (const SnapshotDisk& disk : member.disks) {
      ArrayProvider* array = TRY(arrays_.get(disk.array));
      const ArrayVolume volume =
          TRY(of_array(array->clone(disk.snapshot_id, volume_name_of(vm, disk.id, unique))));
      deployment.disks.push_back({disk.id, TRY(of_array(array->map(volume.id)))});
    }
    return {};
  };
  if (Result<> copied = copy(); !copied) {
    static_cast<void>(give_up(deployment));
    return std::move(copied).error();
  }
  return deployment;
}

Result<> Templates::give_up(Deployment& deployment) {
  TRY(remove_made(arrays_, deployment.journal.content()));
  return deployment.journal.remove();
}

Result<std::vector<MappedVolume>> Templates::map(const SnapshotMember& member) {
  std::vector<MappedVolume> all;
  for (const SnapshotDisk& disk : member.disks) {
    ArrayProvider* array = TRY(arrays_.get(disk.array));
    all.push_back(TRY(of_array(array->map(disk.snapshot_id))));
  }
  return all;
}

Result<> Templates::unmap(const SnapshotMember& member) {
  for (const SnapshotDisk& disk : member.disks) {
    TRY(of_array(TRY(arrays_.get(disk.array))->unmap(disk.snapshot_id)));
  }
  return {};
}

Result<> Templates::remove(const std::string& name) {
  const SnapshotSet set = TRY(store_.get(name));
  for (const SnapshotDisk& disk : set.members.front().disks) {
    ArrayProvider* array = TRY(arrays_.get(disk.array));
    TRY(of_array(array->remove(disk.snapshot_id)));
    TRY(of_array(array->remove(disk.volume_id)));
  }
  return store_.remove(name);
}

}  // namespace plumb
