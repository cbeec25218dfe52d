#include "snapshot/recovery.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "snapshot/revert_journal.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

bool is_whole(const SnapshotStore& store, const SnapshotJournal& journal) {
  if (store.get(journal.id()).ok()) return true;
  const std::string file = journal.content().is_object() ? journal.content().value("file", "") : "";
  return !file.empty() && ::access(file.c_str(), F_OK) == 0;
}

}  // namespace

Result<> remove_made(ArraySet& arrays, const Json& journal) {
  if (!journal.is_object()) return {};  // cut short, and so not followed by anything
  for (const Json& one : journal.value("snapshots", Json::array())) {
    TRY(arrays.remove_snapshot(one.value("array", ""), one.value("name", "")));
  }
  for (const Json& one : journal.value("volumes", Json::array())) {
    TRY(arrays.remove_volume(one.value("array", ""), one.value("name", "")));
  }
  return {};
}

Result<> remove_recorded(const SnapshotStore& store, ArraySet& arrays, const SnapshotSet& set) {
  for (const SnapshotMember& member : set.members) {
    for (const SnapshotDisk& disk : member.disks) {
      ArrayProvider* array = TRY(arrays.get(disk.array));
      if (Result<> removed = array->remove(disk.snapshot_id); !removed) {
        return array_error(std::move(removed).error());
      }
    }
  }
  return store.remove(set.id);
}

std::vector<Recovered> recover(const SnapshotStore& store, ArraySet& arrays) {
  std::vector<Recovered> all;
  for (SnapshotJournal& journal : store.left_over()) {
    if (is_revert(journal.content())) continue;
    const bool whole = is_whole(store, journal);
    Result<> undone = whole ? Result<>() : remove_made(arrays, journal.content());
    if (undone) undone = journal.remove();
    if (!undone) {
      all.push_back({fmt::format("what is left of {} {} cannot be removed: {}", store.what(),
                                 journal.id(), undone.error().message),
                     false});
    } else if (!whole) {
      all.push_back({fmt::format("removed what was left of {} {}, which was cut short",
                                 store.what(), journal.id()),
                     true});
    }
  }
  return all;
}

}  // namespace plumb
