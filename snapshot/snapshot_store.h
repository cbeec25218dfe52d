// SnapshotStore: the records of snapshots (or of templates), and the journals of those under way,
// in one folder.
//
// FOLDER/ID.json is a snapshot: it is there as soon as that file is, and no sooner.
// FOLDER/reverts/VM.json says which snapshot a VM was put back to, and which it had then.
// FOLDER/journals/ID.json says what a running command is about to make; its lock tells whether that
// command still runs. Write order: docs/formats/snapshot.md.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "snapshot/snapshot_set.h"

namespace plumb {

class SnapshotJournal {
 public:
  SnapshotJournal(std::string id, std::string path, UniqueFd lock, nlohmann::json content)
      : id_(std::move(id)),
        path_(std::move(path)),
        lock_(std::move(lock)),
        content_(std::move(content)) {}

  const std::string& id() const { return id_; }
  const nlohmann::json& content() const { return content_; }
  // Nothing is left to undo.
  Result<> remove();

 private:
  std::string id_;
  std::string path_;
  UniqueFd lock_;
  nlohmann::json content_;
};

class SnapshotStore {
 public:
  // Makes the folder, mode 0700. `what` is for messages: "snapshot".
  static Result<SnapshotStore> open(const std::string& folder,
                                    const std::string& what = "snapshot");

  const std::string& what() const { return what_; }

  struct Listed {
    std::vector<SnapshotSet> sets;      // by time, the oldest first
    std::vector<std::string> problems;  // a sentence for each record that cannot be used
  };
  Listed list() const;
  // Error kNotFound, with the nearest id.
  Result<SnapshotSet> get(const std::string& id) const;
  // The commit point: at once or not at all, and never over another.
  Result<> add(const SnapshotSet& set) const;
  Result<> remove(const std::string& id) const;

  // An id that nobody has: "NAME-20261122-190705", with a number behind it when there is one.
  std::string new_id(const std::string& name, std::chrono::system_clock::time_point now) const;

  // The snapshot that a VM's disks follow now: the last one taken of it, or the one that it was put
  // back to after that; "" for none. It may have been deleted.
  std::string head_of(const std::string& vm) const;
  // From now on that is `to`, until the next one is taken. Durable; may be repeated.
  Result<> note_revert(const std::string& vm, const std::string& to) const;

  // Writes down what is about to be made; durable when this returns. Error kLocked when a command
  // that runs has that id.
  Result<SnapshotJournal> begin(const std::string& id, nlohmann::json content) const;
  // The same with an id that nobody has, as new_id() makes it, and nobody else gets meanwhile.
  Result<SnapshotJournal> begin_new(const std::string& name,
                                    std::chrono::system_clock::time_point now,
                                    const nlohmann::json& content) const;
  // The journals of commands that run no more, locked for the caller.
  std::vector<SnapshotJournal> left_over() const;
  std::string journals() const { return folder_ + "/journals"; }

 private:
  SnapshotStore(std::string folder, std::string what)
      : folder_(std::move(folder)), what_(std::move(what)) {}
  std::string record_path(const std::string& id) const { return folder_ + "/" + id + ".json"; }
  std::string journal_path(const std::string& id) const { return journals() + "/" + id + ".json"; }
  std::string revert_path(const std::string& vm) const {
    return folder_ + "/reverts/" + vm + ".json";
  }

  std::string folder_;
  std::string what_;
};

// "2026-11-22T19:07:05Z"
std::string utc_text(std::chrono::system_clock::time_point time);

}  // namespace plumb
