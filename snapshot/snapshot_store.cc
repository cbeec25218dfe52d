#include "snapshot/snapshot_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <set>

#include "base/file.h"

namespace plumb {
namespace {

using Json = nlohmann::json;
using Time = std::chrono::system_clock::time_point;

constexpr size_t kMaxRecordBytes = size_t{16} << 20U;
constexpr std::string_view kEnding = ".json";

std::string format_time(Time time, const char* format) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[64];
  return {text, std::strftime(text, sizeof(text), format, &parts)};
}

// The ids of the files in a folder.
std::vector<std::string> ids_in(const std::string& folder) {
  std::vector<std::string> ids;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    std::string name = it->path().filename().string();
    if (!name.ends_with(kEnding)) continue;
    name.resize(name.size() - kEnding.size());
    if (is_snapshot_id(name)) ids.push_back(std::move(name));
  }
  std::ranges::sort(ids);
  return ids;
}

Result<SnapshotSet> read_record(const std::string& path, const std::string& id) {
  const std::string text = TRY(read_file(path, kMaxRecordBytes));
  SnapshotSet set = TRY(set_from_json(Json::parse(text, nullptr, false), path));
  if (set.id != id) return failed("snapshot record {} is that of '{}'", path, set.id);
  return set;
}

Result<> remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return os_error(errno, "{} cannot be removed", path);
  }
  return sync_folder_of(path);
}

}  // namespace

std::string utc_text(Time time) { return format_time(time, "%Y-%m-%dT%H:%M:%SZ"); }

Result<> SnapshotJournal::remove() { return remove_file(path_); }

Result<SnapshotStore> SnapshotStore::open(const std::string& folder, const std::string& what) {
  TRY(make_folders(folder + "/journals", 0700));
  return SnapshotStore(folder, what);
}

SnapshotStore::Listed SnapshotStore::list() const {
  Listed listed;
  for (const std::string& id : ids_in(folder_)) {
    Result<SnapshotSet> set = read_record(record_path(id), id);
    if (set) {
      listed.sets.push_back(std::move(set).value());
    } else {
      listed.problems.push_back(set.error().message);
    }
  }
  std::ranges::stable_sort(listed.sets, {}, &SnapshotSet::taken_at);
  return listed;
}

Result<SnapshotSet> SnapshotStore::get(const std::string& id) const {
  if (!is_snapshot_id(id) || ::access(record_path(id).c_str(), F_OK) != 0) {
    return make_error(ErrorKind::kNotFound, "there is no {} '{}'; see `plumb {} list`", what_, id,
                      what_);
  }
  return read_record(record_path(id), id);
}

Result<> SnapshotStore::add(const SnapshotSet& set) const {
  return create_file(record_path(set.id), set_to_json(set).dump(2) + "\n");
}

Result<> SnapshotStore::remove(const std::string& id) const { return remove_file(record_path(id)); }

std::string SnapshotStore::new_id(const std::string& name, Time now) const {
  const std::string first = name + format_time(now, "-%Y%m%d-%H%M%S");
  std::string id = first;
  const auto taken = [this](const std::string& one) {
    return ::access(record_path(one).c_str(), F_OK) == 0 ||
           ::access(journal_path(one).c_str(), F_OK) == 0;
  };
  for (int number = 2; taken(id); ++number) id = first + "-" + std::to_string(number);
  return id;
}

std::string SnapshotStore::head_of(const std::string& vm) const {
  std::string head;
  std::set<std::string> before;
  if (is_snapshot_id(vm)) {
    const Result<std::string> text = read_file(revert_path(vm), kMaxRecordBytes);
    const Json revert = text.ok() ? Json::parse(text.value(), nullptr, false) : Json();
    const bool good = revert.is_object() && revert.contains("to") && revert["to"].is_string() &&
                      revert.contains("before") && revert["before"].is_array();
    for (const Json& id : good ? revert["before"] : Json::array()) {
      if (id.is_string()) before.insert(id);
    }
    if (good) head = revert["to"];
  }
  for (const SnapshotSet& set : list().sets) {
    if (set.find(vm) != nullptr && !before.contains(set.id)) head = set.id;
  }
  return head;
}

Result<> SnapshotStore::note_revert(const std::string& vm, const std::string& to) const {
  if (!is_snapshot_id(vm)) return failed("'{}' cannot be the name of a VM's record", vm);
  Json before = Json::array();
  for (const SnapshotSet& set : list().sets) {
    if (set.find(vm) != nullptr) before.push_back(set.id);
  }
  TRY(make_folders(folder_ + "/reverts", 0700));
  return replace_file(revert_path(vm), Json{{"to", to}, {"before", before}}.dump(2) + "\n");
}

Result<SnapshotJournal> SnapshotStore::begin(const std::string& id, Json content) const {
  const std::string path = journal_path(id);
  UniqueFd fd = TRY(open_file("journal", path, O_RDWR | O_CREAT | O_NOFOLLOW));
  // Someone who looks for left-over journals may have taken the new file for one.
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 || !is_still_at(fd.get(), path)) {
    return make_error(ErrorKind::kLocked, "another command has {} '{}'; try again", what_, id);
  }
  const std::string text = content.dump(2) + "\n";
  if (::ftruncate(fd.get(), 0) != 0 ||
      ::pwrite(fd.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      ::fsync(fd.get()) != 0) {
    return os_error(errno, "journal {} cannot be written", path);
  }
  TRY(sync_folder_of(path));
  return SnapshotJournal(id, path, std::move(fd), std::move(content));
}

Result<SnapshotJournal> SnapshotStore::begin_new(const std::string& name, Time now,
                                                 const Json& content) const {
  while (true) {
    const std::string id = new_id(name, now);
    Result<SnapshotJournal> journal = begin(id, content);
    if (!journal && journal.error().kind == ErrorKind::kLocked) continue;
    // Between the two, who had the id may have ended.
    if (!journal || ::access(record_path(id).c_str(), F_OK) != 0) return journal;
    TRY(journal->remove());
  }
}

std::vector<SnapshotJournal> SnapshotStore::left_over() const {
  std::vector<SnapshotJournal> all;
  for (const std::string& id : ids_in(journals())) {
    const std::string path = journal_path(id);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (!fd || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;
    // Whoever had the lock may have removed it meanwhile.
    if (!is_still_at(fd.get(), path)) continue;
    const Result<std::string> text = read_file(path, kMaxRecordBytes);
    if (!text.ok()) continue;
    // One cut short was not yet followed by anything.
    all.emplace_back(id, path, std::move(fd), Json::parse(text.value(), nullptr, false));
  }
  return all;
}

}  // namespace plumb
