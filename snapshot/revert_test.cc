#include "snapshot/revert.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "base/file.h"
#include "snapshot/array_disks.h"
#include "snapshot/fake_array.h"
#include "snapshot/revert_run.h"
#include "tests/fakes/test_image.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr const char* kUuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
constexpr const char* kOld = "3f2504e0-4f89-41d3-9a0c-0305e82c3302";
constexpr const char* kNew = "3f2504e0-4f89-41d3-9a0c-0305e82c3303";

RevertJournal a_journal(const std::string& identity) {
  RevertJournal journal;
  journal.to = "db1-1";
  journal.kept = "db1-2";
  journal.vms.push_back({"db1", kUuid, {kNew, {kOld}}});
  journal.disks.push_back({"db1", "data", identity, "lab", "volume", "copy", "kept"});
  return journal;
}

SnapshotSet a_set(const std::string& id, const std::string& taken_at) {
  SnapshotSet set{
      .id = id, .taken_at = taken_at, .note = "", .asked = Grade::kCrash, .members = {}};
  SnapshotMember& member = set.members.emplace_back();
  member.vm = "db1";
  member.definition = {{"name", "db1"}};
  return set;
}

void check_refused(const Json& good, const std::vector<std::function<void(Json&)>>& spoils,
                   const std::function<std::string(const Json&)>& refusal) {
  for (size_t i = 0; i < spoils.size(); ++i) {
    INFO("case " << i);
    Json json = good;
    spoils[i](json);
    CHECK_THAT(refusal(json), Catch::Contains("FILE") && Catch::Contains("cannot be used: "));
  }
}

}  // namespace

TEST_CASE("the journal of a revert is read as it was written, and what is none is refused") {
  const Json good = revert_to_json(a_journal("/srv/a.img"));
  CHECK(is_revert(good));
  CHECK_FALSE(is_revert(Json{{"vms", {"db1"}}}));
  CHECK(revert_to_json(revert_from_json(good, "FILE").value()) == good);
  check_refused(
      good,
      {[](Json& j) { j = Json(); }, [](Json& j) { j["revert"] = 7; },
       [](Json& j) { j["revert"].erase("to"); }, [](Json& j) { j["revert"]["to"] = Json::array(); },
       [](Json& j) { j["revert"]["disks"] = Json::array(); },
       [](Json& j) { j["revert"]["disks"][0]["identity"] = 7; },
       [](Json& j) { j["revert"]["disks"][0].erase("kept_id"); },
       [](Json& j) { j["revert"]["vms"] = Json::array(); },
       [](Json& j) { j["revert"]["vms"][0]["uuid"] = "../../etc/passwd"; },
       [](Json& j) { j["revert"]["vms"][0]["generation"]["generation_id"] = "x"; }},
      [](const Json& json) {
        Result<RevertJournal> read = revert_from_json(json, "FILE");
        return read.ok() ? std::string("accepted") : read.error().message;
      });
}

TEST_CASE("a generation record is read as it was written, and what is none is refused") {
  const Json good = generation_to_json({kNew, {kOld}});
  CHECK(generation_to_json(generation_from_json(good, "FILE").value()) == good);
  check_refused(
      good,
      {[](Json& j) { j = Json(); }, [](Json& j) { j["version"] = 2; },
       [](Json& j) { j.erase("generation_id"); }, [](Json& j) { j["generation_id"] = 7; },
       [](Json& j) { j.erase("in_place_of"); }, [](Json& j) { j["in_place_of"] = {"no uuid"}; }},
      [](const Json& json) {
        Result<Generation> read = generation_from_json(json, "FILE");
        return read.ok() ? std::string("accepted") : read.error().message;
      });
}

TEST_CASE("a generation id is put in place of those that it stands for, and of no other") {
  TemporaryFolder folder;
  const auto in_effect = [&](const char* defined) {
    return generation_in_effect(folder.path() + "/g", kUuid, defined).value();
  };
  CHECK(in_effect(kOld) == kOld);
  REQUIRE(write_generation(folder.path() + "/g", kUuid, {kNew, {kOld}}).ok());
  CHECK(in_effect(kOld) == kNew);
  CHECK(in_effect(kUuid) == kUuid);
  CHECK_FALSE(write_generation(folder.path() + "/g", "../x", {kNew, {kOld}}).ok());
  std::ofstream(folder.path() + "/g/" + kUuid + ".json") << "{";
  CHECK_FALSE(generation_in_effect(folder.path() + "/g", kUuid, kOld).ok());
}

TEST_CASE("a disk that a revert is at is found by its journal, whichever way it is named") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  const auto check = [&](const std::string& image, const std::string& wwn) {
    return check_not_reverting(store.journals(), disk_identity(image, wwn), "disk data");
  };
  const std::string image = folder.path() + "/a.img";
  std::ofstream(image) << "x";
  std::filesystem::create_symlink(image, folder.path() + "/link");
  CHECK(check(image, "").ok());
  CHECK(check_not_reverting("/nowhere/journals", image, "disk data").ok());
  static_cast<void>(store.begin("a", revert_to_json(a_journal(image))).value());
  static_cast<void>(store.begin("b", revert_to_json(a_journal("naa.5001"))).value());
  static_cast<void>(store.begin("c", {{"vms", {"db1"}}}).value());
  std::ofstream(store.journals() + "/d.json") << "{\"rev";
  for (const std::string& path : {image, folder.path() + "/link", folder.path() + "/./a.img"}) {
    Result<> refused = check(path, "");
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().kind == ErrorKind::kLocked);
    CHECK_THAT(refused.error().message,
               Catch::Contains("disk data is being put back to snapshot db1-1"));
  }
  CHECK_FALSE(check("", "naa.5001").ok());
  CHECK(check("", "naa.5002").ok());
  CHECK(check(folder.path() + "/b.img", "").ok());
  std::ofstream(store.journals() + "/e.json") << R"({"revert": {}})";
  CHECK_FALSE(check("", "naa.5002").ok());
}

TEST_CASE("what follows a revert follows the snapshot that was reverted to") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path()).value();
  CHECK(store.head_of("db1").empty());
  REQUIRE(store.add(a_set("one", "2026-11-22T19:00:01Z")).ok());
  REQUIRE(store.add(a_set("two", "2026-11-22T19:00:02Z")).ok());
  CHECK(store.head_of("db1") == "two");
  CHECK(store.head_of("db2").empty());
  for (int times = 0; times < 2; ++times) REQUIRE(store.note_revert("db1", "one").ok());
  CHECK(store.head_of("db1") == "one");
  CHECK(store.head_of("db2").empty());
  // Also when what it followed is gone.
  REQUIRE(store.remove("two").ok());
  REQUIRE(store.remove("one").ok());
  CHECK(store.head_of("db1") == "one");
  // Whatever the clock says.
  REQUIRE(store.add(a_set("three", "2020-01-01T00:00:00Z")).ok());
  CHECK(store.head_of("db1") == "three");
  std::ofstream(folder.path() + "/reverts/db1.json") << R"({"to": 7, "before": {"x": 1}})";
  CHECK(store.head_of("db1") == "three");
}

TEST_CASE("a disk is claimed against everybody, and given up for an array that claims it") {
  const TestImage image(1U << 20U);
  DiskClaims claims;
  REQUIRE(claims.claim(image.path(), false).ok());
  REQUIRE(claims.claim(image.path(), false).ok());
  DiskClaims others;
  CHECK(others.claim(image.path(), false).error().kind == ErrorKind::kLocked);
  claims.release(image.path());
  CHECK(claims.fd_of(image.path()) == -1);
  REQUIRE(others.claim(image.path(), true).ok());
  CHECK(claims.claim_again(image.path()).error().kind == ErrorKind::kLocked);
  // A LUN that is not here is nobody's here.
  CHECK(claims.claim("naa.600140500000000000000000000000ff", false).ok());
}

TEST_CASE("an array that makes no volumes makes no disk") {
  TemporaryFolder folder;
  const SnapshotStore store = SnapshotStore::open(folder.path(), "disk").value();
  FakeArrayState state;
  std::vector<std::unique_ptr<ArrayProvider>> all;
  all.push_back(std::make_unique<FakeArray>("lab", state));
  ArraySet arrays(std::move(all));
  Result<ArrayDisk> made = create_array_disk(store, arrays, "lab", "data", 4096);
  REQUIRE_FALSE(made.ok());
  CHECK(made.error().kind == ErrorKind::kArray);
  CHECK_THAT(made.error().message, Catch::Contains("array lab makes no volumes"));
  for (const char* name : {"", "Data", "../x", "a_b", "-a"}) {
    INFO(name);
    CHECK(create_array_disk(store, arrays, "lab", name, 4096).error().kind == ErrorKind::kUsage);
  }
  CHECK(store.left_over().empty());
}

}  // namespace plumb
