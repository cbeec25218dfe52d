#include "snapshot/snapshot_store.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "tests/child_process.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

SnapshotSet a_set(const std::string& id, const std::string& taken_at = "2026-11-22T19:07:05Z") {
  SnapshotSet set{.id = id,
                  .taken_at = taken_at,
                  .note = "before\nthe upgrade",
                  .asked = Grade::kFileSystem,
                  .copied_us = 1234,
                  .members = {}};
  SnapshotMember& member = set.members.emplace_back();
  member.vm = "db1";
  member.grade = Grade::kFileSystem;
  member.agent = "7.2.22";
  member.os = {.id = "debian", .name = "Debian GNU/Linux 12", .kernel = "6.1"};
  member.frozen_ms = 12;
  member.definition = {{"name", "db1"}};
  member.disks.push_back(
      {.id = "root",
       .source = {.image = "/srv/root.img", .wwn = "", .device = "", .size_bytes = 4096},
       .array = "reflink:/srv",
       .volume_id = "/srv/root.img",
       .snapshot_id = "/srv/.plumb-snapshots/x"});
  return set;
}

}  // namespace

TEST_CASE("a record is read as it was written") {
  const Json json = set_to_json(a_set("db1-1"));
  CHECK(set_to_json(set_from_json(json, "x").value()) == json);
}

TEST_CASE("a record that is not one is refused in a sentence with its name") {
  const Json good = set_to_json(a_set("db1-1"));
  struct Case {
    const char* what;
    std::function<void(Json&)> spoil;
  };
  const Case cases[] = {
      {"nothing", [](Json& j) { j = Json(); }},
      {"a list", [](Json& j) { j = Json::array(); }},
      {"another version", [](Json& j) { j["version"] = 2; }},
      {"no id", [](Json& j) { j.erase("id"); }},
      {"an id that leaves the folder", [](Json& j) { j["id"] = "../../etc/passwd"; }},
      {"an empty id", [](Json& j) { j["id"] = ""; }},
      {"an unknown grade", [](Json& j) { j["asked"] = "best"; }},
      {"no member", [](Json& j) { j["members"] = Json::array(); }},
      {"a member twice", [](Json& j) { j["members"].push_back(j["members"][0]); }},
      {"a member without a name", [](Json& j) { j["members"][0]["vm"] = ""; }},
      {"a disk twice",
       [](Json& j) { j["members"][0]["disks"].push_back(j["members"][0]["disks"][0]); }},
      {"a size that is a text",
       [](Json& j) { j["members"][0]["disks"][0]["size_bytes"] = "4096"; }},
      {"a definition that is none", [](Json& j) { j["members"][0]["definition"] = 7; }},
      {"members that are none",
       [](Json& j) {
         j["members"] = {1, 2};
       }},
  };
  for (const Case& one : cases) {
    INFO(one.what);
    Json json = good;
    one.spoil(json);
    Result<SnapshotSet> set = set_from_json(json, "FILE");
    REQUIRE_FALSE(set.ok());
    CHECK(set.error().message.starts_with("snapshot record FILE cannot be used: "));
  }
}

TEST_CASE("snapshots are listed by time, and a broken record does not hide the others") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  REQUIRE(store.add(a_set("b", "2026-11-22T19:00:00Z")).ok());
  REQUIRE(store.add(a_set("a", "2026-11-22T20:00:00Z")).ok());
  std::ofstream(folder.path() + "/c.json") << "{";
  std::filesystem::copy(folder.path() + "/a.json", folder.path() + "/d.json");
  const SnapshotStore::Listed listed = store.list();
  REQUIRE(listed.sets.size() == 2);
  CHECK(listed.sets[0].id == "b");
  CHECK(listed.problems.size() == 2);
  CHECK_FALSE(store.get("c").ok());
  CHECK(store.get("a").value().note == "before\nthe upgrade");
}

TEST_CASE("a record never takes another's place") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  REQUIRE(store.add(a_set("a")).ok());
  CHECK_FALSE(store.add(a_set("a", "2027-01-01T00:00:00Z")).ok());
  CHECK(store.get("a").value().taken_at == "2026-11-22T19:07:05Z");
}

TEST_CASE("what is not there is not found, whatever its name") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  for (const char* id : {"x", "", "..", "../snapshots/x", "a/b", "-x"}) {
    INFO(id);
    CHECK(store.get(id).error().kind == ErrorKind::kNotFound);
  }
}

TEST_CASE("an id is nobody else's") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  const auto now = std::chrono::system_clock::from_time_t(1'795'374'425);
  const std::string first = store.new_id("db1", now);
  CHECK(first == "db1-20261122-190705");
  CHECK(utc_text(now) == "2026-11-22T19:07:05Z");
  REQUIRE(store.add(a_set(first)).ok());
  CHECK(store.new_id("db1", now) == first + "-2");
  const SnapshotJournal journal = store.begin(first + "-2", Json::object()).value();
  CHECK(store.new_id("db1", now) == first + "-3");
}

TEST_CASE("commands of one second get ids of their own") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  const auto now = std::chrono::system_clock::from_time_t(1'795'374'425);
  std::vector<std::string> problems(4);
  std::vector<std::thread> commands;
  for (std::string& problem : problems) {
    commands.emplace_back([&store, &problem, now] {
      for (int i = 0; i < 20 && problem.empty(); ++i) {
        Result<SnapshotJournal> journal = store.begin_new("db1", now, Json::object());
        if (!journal) problem = journal.error().message;
        if (!journal) return;
        Result<> recorded = store.add(a_set(journal->id()));
        if (!recorded) problem = recorded.error().message;
        if (recorded && !journal->remove().ok()) problem = "its journal stays";
      }
    });
  }
  for (std::thread& command : commands) command.join();
  for (const std::string& problem : problems) CHECK(problem.empty());
  CHECK(store.list().sets.size() == 80);
}

TEST_CASE("a journal belongs to its process, and is left over when that dies") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  {
    SnapshotJournal journal = store.begin("a", {{"vms", {"db1"}}}).value();
    CHECK(store.left_over().empty());
    CHECK(store.begin("a", Json::object()).error().kind == ErrorKind::kLocked);
    SnapshotJournal done = store.begin("b", Json::object()).value();
    CHECK(done.remove().ok());
  }
  CHECK(in_child([&] {
          static_cast<void>(store.begin("c", {{"vms", {"db2"}}}).value());
          return std::string("made");
        }) == "made");
  std::ofstream(folder.path() + "/journals/d.json") << "{cut";
  std::vector<SnapshotJournal> left = store.left_over();
  REQUIRE(left.size() == 3);
  CHECK(left[0].id() == "a");
  CHECK(left[1].content() == Json{{"vms", {"db2"}}});
  CHECK(left[2].content().is_discarded());
  for (SnapshotJournal& journal : left) CHECK(journal.remove().ok());
  CHECK(store.left_over().empty());
}

TEST_CASE("names in arrays differ, and are within what every array takes") {
  const std::string name = array_name_of("set", "vm", "disk");
  CHECK(name.size() == 22);
  CHECK(name.starts_with("plumb-"));
  CHECK(name != array_name_of("set", "vmd", "isk"));
  CHECK(name != array_name_of("se", "tvm", "disk"));
  CHECK(name == array_name_of("set", "vm", "disk"));
}

}  // namespace plumb
