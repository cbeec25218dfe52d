#include "snapshot/coordinator.h"

#include <catch2/catch.hpp>
#include <map>

#include "snapshot/fake_array.h"
#include "snapshot/fake_guest.h"
#include "snapshot/lease_client.h"
#include "snapshot/recovery.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// VMs "a", "b", … with two LUNs each, all in one array, and a coordinator for them.
class Rig {
 public:
  // `beside`: more of what a VM says of its second disk, which is then in no array, and its VM
  // keeps snapshots of it.
  explicit Rig(size_t vms = 1, const Json& beside = nullptr) : second_disk(beside) {
    for (size_t i = 0; i < vms; ++i) add_vm(std::string(1, static_cast<char>('a' + i)));
  }

  Coordinator coordinator() {
    return Coordinator({.store = &store,
                        .arrays = &arrays,
                        .owner = "a test",
                        .connect = [this](const std::string& vm) -> Result<UniqueFd> {
                          if (!guests.contains(vm)) {
                            return make_error(ErrorKind::kNotFound, "no VM '{}'", vm);
                          }
                          return guests.at(vm)->connect();
                        },
                        .hook = [this](const char* phase, const SnapshotPlan&) -> Result<> {
                          phases.emplace_back(phase);
                          return hook ? hook(phase) : Result<>();
                        },
                        .interrupted = {}});
  }
  SnapshotRequest request(Grade quiesce = Grade::kFileSystem) const {
    SnapshotRequest request;
    for (const auto& [name, guest] : guests) request.vms.push_back(name);
    request.name = "set";
    request.quiesce = quiesce;
    request.limits = {.agent_ms = 60'000,
                      .freeze_ms = 60'000,
                      .frozen_ms = 60'000,
                      .held_ms = 60'000,
                      .thaw_ms = 60'000};
    return request;
  }
  FakeGuest& guest(const std::string& vm = "a") { return *guests.at(vm); }

  // That no snapshot, journal, freeze or hold is left.
  void check_nothing_left() {
    CHECK(array.snapshots.empty());
    CHECK(store.list().sets.empty());
    CHECK(store.left_over().empty());
    check_guests_go_on();
  }
  void check_guests_go_on() {
    for (auto& [name, one] : guests) {
      one->wait_until_idle();
      CHECK_FALSE(one->agent.frozen());
      CHECK_FALSE(one->disks.is_held);
    }
  }

  const Json second_disk;
  TemporaryFolder folder;
  SnapshotStore store = SnapshotStore::open(folder.path()).value();
  OverlayStore overlays{folder.path() + "/overlays"};
  FakeArrayState array;
  ArraySet arrays = make_arrays();
  std::map<std::string, std::unique_ptr<FakeGuest>> guests;
  std::function<Result<>(const std::string& phase)> hook;
  std::vector<std::string> phases;

 private:
  void add_vm(const std::string& name) {
    Json media = Json::array();
    for (const std::string disk : {"root", "data"}) {
      Json medium{{"id", disk},
                  {"device", "/dev/sda"},
                  {"wwn", "naa." + name + disk},
                  {"size_bytes", 4096}};
      const bool in_array = disk == "root" || second_disk.is_null();
      if (in_array) array.wwns.insert("naa." + name + disk);
      if (!in_array) medium.update(second_disk);
      media.push_back(medium);
    }
    const Json described{
        {"definition", {{"name", name}}}, {"media", media}, {"pid", 1}, {"paused", false}};
    guests[name] = std::make_unique<FakeGuest>(described);
    guests[name]->start();
  }
  ArraySet make_arrays() {
    std::vector<std::unique_ptr<ArrayProvider>> all;
    all.push_back(std::make_unique<FakeArray>("lab", array));
    if (second_disk.is_null()) return ArraySet(std::move(all));
    return ArraySet(std::move(all), std::make_unique<OverlayArray>(overlays, OverlayArray::Vms{}));
  }
};

const std::vector<std::string> kAllPhases(std::begin(kSnapshotPhases), std::end(kSnapshotPhases));

}  // namespace

TEST_CASE("a snapshot of a guest has all its disks, its grade, and what it cost") {
  Rig rig;
  bool frozen = false;
  bool held = false;
  rig.array.at = [&](const char* step) -> Result<> {
    if (std::string(step) == "take") {
      frozen = rig.guest().agent.frozen();
      held = rig.guest().disks.is_held;
    }
    return {};
  };
  const SnapshotOutcome outcome = rig.coordinator().take(rig.request()).value();
  CHECK(frozen);
  CHECK(held);
  CHECK(rig.phases == kAllPhases);
  CHECK(outcome.warnings.empty());
  CHECK(outcome.frozen.empty());
  CHECK(rig.array.snapshots.size() == 2);
  const SnapshotSet stored = rig.store.get(outcome.set.id).value();
  REQUIRE(stored.members.size() == 1);
  CHECK(stored.members[0].vm == "a");
  CHECK(stored.members[0].grade == Grade::kFileSystem);
  CHECK(stored.members[0].os.id == "debian");
  REQUIRE(stored.members[0].disks.size() == 2);
  CHECK(rig.array.snapshots.at(stored.members[0].disks[1].snapshot_id) == "naa.adata");
  CHECK(rig.store.left_over().empty());
  rig.check_guests_go_on();
}

TEST_CASE("of a group, all are frozen and held before the first disk is copied") {
  Rig rig(3);
  size_t standing = 0;
  rig.array.at = [&](const char* step) -> Result<> {
    for (auto& [name, guest] : rig.guests) {
      standing += std::string(step) == "take" && guest->agent.frozen() && guest->disks.is_held;
    }
    return {};
  };
  const SnapshotOutcome outcome = rig.coordinator().take(rig.request()).value();
  CHECK(standing == 3);
  CHECK(outcome.set.members.size() == 3);
  CHECK(rig.array.snapshots.size() == 6);
  CHECK(rig.store.list().sets.size() == 1);
}

TEST_CASE("a guest without an agent is copied as after a crash, and that is said") {
  Rig rig(2);
  rig.guest("b").agent.override_with(
      [](const std::string&, const Json&, std::string&) { return true; });
  SnapshotRequest request = rig.request();
  request.limits.agent_ms = 50;
  const SnapshotOutcome outcome = rig.coordinator().take(request).value();
  CHECK(outcome.set.members[0].grade == Grade::kFileSystem);
  CHECK(outcome.set.members[1].grade == Grade::kCrash);
  REQUIRE(outcome.warnings.size() == 1);
  CHECK(outcome.warnings[0].find("VM 'b' is of grade crash only, not fs: no guest agent answers") ==
        0);
}

TEST_CASE("what is required is checked before anything is made") {
  Rig rig;
  rig.guest().agent.override_with([](const std::string& command, const Json&, std::string& said) {
    if (command != "guest-info") return false;
    said = FakeAgent::ok({{"version", "1"}, {"supported_commands", Json::array()}});
    return true;
  });
  SnapshotRequest request = rig.request();
  request.require = Grade::kFileSystem;
  Result<SnapshotOutcome> outcome = rig.coordinator().take(request);
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().kind == ErrorKind::kFreeze);
  CHECK(rig.phases.empty());
  rig.check_nothing_left();
}

TEST_CASE("required application consistency without hooks leaves nothing behind") {
  Rig rig;
  SnapshotRequest request = rig.request(Grade::kApplication);
  request.require = Grade::kApplication;
  Result<SnapshotOutcome> outcome = rig.coordinator().take(request);
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().kind == ErrorKind::kFreeze);
  CHECK(outcome.error().message.find("no hooks of applications report") != std::string::npos);
  rig.check_nothing_left();
}

TEST_CASE("crash consistency asks no agent, and still holds the disks") {
  Rig rig;
  const SnapshotOutcome outcome = rig.coordinator().take(rig.request(Grade::kCrash)).value();
  CHECK(rig.guest().agent.heard().empty());
  CHECK(outcome.set.members[0].held_us > 0);
  CHECK(outcome.warnings.empty());
}

TEST_CASE("whatever step fails, nothing is left, and the next snapshot works") {
  const std::string failing = GENERATE(from_range(kAllPhases));
  INFO(failing);
  Rig rig(2);
  rig.hook = [&](const std::string& phase) -> Result<> {
    return phase == failing ? Result<>(failed("hook {} failed", phase)) : Result<>();
  };
  Result<SnapshotOutcome> outcome = rig.coordinator().take(rig.request());
  const bool late =
      failing == "released" || failing == "thawed" || failing == "whole" || failing == "recorded";
  REQUIRE(outcome.ok() == late);
  if (late) {
    CHECK(outcome.value().warnings == std::vector{"hook " + failing + " failed"});
    rig.check_guests_go_on();
  } else {
    CHECK(outcome.error().message == "hook " + failing + " failed");
    rig.check_nothing_left();
  }
  rig.hook = nullptr;
  CHECK(rig.coordinator().take(rig.request()).ok());
}

TEST_CASE("whatever the array does not do, nothing is left") {
  const std::string failing =
      GENERATE(std::string("prepare"), std::string("take"), std::string("finish"));
  INFO(failing);
  Rig rig;
  rig.array.at = [&](const char* step) -> Result<> {
    return step == failing ? Result<>(failed("array lab: no")) : Result<>();
  };
  Result<SnapshotOutcome> outcome = rig.coordinator().take(rig.request());
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().kind == ErrorKind::kArray);
  rig.check_nothing_left();
}

TEST_CASE("disks that do not get quiet end the snapshot of all") {
  Rig rig(2);
  rig.guest("b").disks.busy = true;
  Result<SnapshotOutcome> outcome = rig.coordinator().take(rig.request());
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().message == "VM 'b': disk data is busy");
  rig.check_nothing_left();
}

TEST_CASE("copies made after the hold has ended are not kept") {
  Rig rig;
  rig.hook = [&](const std::string& phase) -> Result<> {
    while (phase == "copied" && rig.guest().disks.is_held) std::this_thread::yield();
    return {};
  };
  SnapshotRequest request = rig.request();
  request.limits.held_ms = 50;
  Result<SnapshotOutcome> outcome = rig.coordinator().take(request);
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().message.find("held for longer than was agreed") != std::string::npos);
  rig.check_nothing_left();
}

TEST_CASE("a guest that does not thaw is named, and its copies are kept") {
  Rig rig;
  std::atomic<bool> deaf = true;
  rig.guest().agent.override_with([&](const std::string& command, const Json&, std::string& said) {
    if (command != "guest-fsfreeze-thaw" || !deaf) return false;
    said = FakeAgent::error("not now");
    return true;
  });
  SnapshotRequest request = rig.request();
  request.limits.thaw_ms = 50;
  const SnapshotOutcome outcome = rig.coordinator().take(request).value();
  REQUIRE(outcome.frozen.size() == 1);
  CHECK(outcome.frozen[0].find("VM 'a' may still be frozen") == 0);
  CHECK(outcome.set.members[0].grade == Grade::kCrash);
  deaf = false;
  rig.check_guests_go_on();
}

TEST_CASE("file systems that were thawed too early are seen") {
  Rig rig;
  rig.hook = [&](const std::string& phase) -> Result<> {
    if (phase == "held") rig.guest().agent.set_frozen(false);
    return {};
  };
  const SnapshotOutcome outcome = rig.coordinator().take(rig.request()).value();
  CHECK(outcome.set.members[0].grade == Grade::kCrash);
  CHECK(outcome.set.members[0].reason.find("2 of 2 file systems were thawed before") == 0);
}

TEST_CASE("a VM that is paused, unknown, or another's is told of") {
  Rig rig;
  SnapshotRequest request = rig.request();
  SECTION("unknown") {
    request.vms.emplace_back("zz");
    Result<SnapshotOutcome> outcome = rig.coordinator().take(request);
    REQUIRE_FALSE(outcome.ok());
    CHECK(outcome.error().kind == ErrorKind::kNotFound);
  }
  SECTION("another's") {
    LeaseClient other(rig.guest().connect());
    REQUIRE(other.call("begin", {{"owner", "another"}}, 60'000).ok());
    Result<SnapshotOutcome> outcome = rig.coordinator().take(request);
    REQUIRE_FALSE(outcome.ok());
    CHECK(outcome.error().kind == ErrorKind::kLocked);
  }
  rig.check_nothing_left();
}

TEST_CASE("a disk that no array has ends the snapshot before any guest is asked") {
  Rig rig;
  rig.array.wwns.erase("naa.adata");
  Result<SnapshotOutcome> outcome = rig.coordinator().take(rig.request());
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().kind == ErrorKind::kArray);
  CHECK(outcome.error().message ==
        "VM 'a': LUN naa.adata is of no array that plumb.toml names; add its array "
        "(docs/arrays.md)");
  CHECK(rig.guest().agent.heard().empty());
  rig.check_nothing_left();
}

TEST_CASE("what a command left that died is removed, unless it is whole") {
  Rig rig;
  const SnapshotPlan plan = rig.coordinator().plan(rig.request()).value();
  rig.check_guests_go_on();
  SECTION("cut short") {
    static_cast<void>(rig.store.begin(plan.id, journal_of(plan)).value());
    rig.array.snapshots[plan.members[0].disks[0].name] = "naa.aroot";
    rig.array.snapshots["another"] = "naa.aroot";
    const auto recovered = recover(rig.store, rig.arrays);
    REQUIRE(recovered.size() == 1);
    CHECK(recovered[0].clean);
    CHECK(rig.array.snapshots.size() == 1);
    CHECK(rig.store.left_over().empty());
  }
  SECTION("an array that does not answer now is asked again later") {
    static_cast<void>(rig.store.begin(plan.id, journal_of(plan)).value());
    rig.array.snapshots[plan.members[0].disks[0].name] = "naa.aroot";
    rig.array.reachable = false;
    CHECK_FALSE(recover(rig.store, rig.arrays).at(0).clean);
    rig.array.reachable = true;
    CHECK(recover(rig.store, rig.arrays).at(0).clean);
    CHECK(rig.array.snapshots.empty());
  }
  SECTION("whole") {
    const SnapshotOutcome outcome = rig.coordinator().take(rig.request()).value();
    static_cast<void>(rig.store.begin(outcome.set.id, journal_of(plan)).value());
    CHECK(recover(rig.store, rig.arrays).empty());
    CHECK(rig.array.snapshots.size() == 2);
    CHECK(rig.store.left_over().empty());
  }
  SECTION("of a command that still runs, nothing is touched") {
    const SnapshotJournal running = rig.store.begin(plan.id, journal_of(plan)).value();
    rig.array.snapshots[plan.members[0].disks[0].name] = "naa.aroot";
    CHECK(recover(rig.store, rig.arrays).empty());
    CHECK(rig.array.snapshots.size() == 1);
  }
}

TEST_CASE("a snapshot is removed whole, also in a second attempt") {
  Rig rig;
  const std::string id = rig.coordinator().take(rig.request()).value().set.id;
  rig.array.reachable = false;
  CHECK(rig.coordinator().remove(id).error().kind == ErrorKind::kArray);
  CHECK(rig.store.get(id).ok());
  rig.array.reachable = true;
  rig.array.snapshots.erase(rig.array.snapshots.begin());
  CHECK(rig.coordinator().remove(id).ok());
  CHECK(rig.array.snapshots.empty());
  CHECK(rig.coordinator().remove(id).error().kind == ErrorKind::kNotFound);
}

TEST_CASE("what no array has, its VM keeps, at the same instant") {
  Rig rig(2, Json::object());
  bool held = false;
  rig.array.at = [&](const char* step) -> Result<> {
    held = held || (std::string(step) == "take" && rig.guest().disks.is_held);
    return {};
  };
  rig.hook = [&](const std::string& phase) -> Result<> {
    const size_t kept = rig.guest("a").disks.kept + rig.guest("b").disks.kept;
    CHECK(kept == (phase == "planned" || phase == "prepared" || phase == "frozen" || phase == "held"
                       ? 0U
                       : 2U));
    return {};
  };
  const SnapshotOutcome outcome = rig.coordinator().take(rig.request()).value();
  CHECK(held);
  CHECK(outcome.warnings.empty());
  CHECK(rig.array.snapshots.size() == 2);
  const SnapshotDisk& disk = outcome.set.members[1].disks[1];
  CHECK(disk.array == "copy-before-write");
  CHECK(disk.volume_id == "naa.bdata");
  CHECK(rig.overlays.chain("naa.bdata").value().size() == 1);
  // Nobody has it any more.
  REQUIRE(rig.coordinator().remove(outcome.set.id).ok());
  CHECK(rig.overlays.all().value().empty());
  CHECK(rig.array.snapshots.empty());
}

TEST_CASE("a VM that cannot keep its disk ends the snapshot, and nothing is left") {
  Rig rig(2, Json::object());
  rig.guest("b").disks.keeps_badly = true;
  const Result<SnapshotOutcome> outcome = rig.coordinator().take(rig.request());
  REQUIRE_FALSE(outcome.ok());
  CHECK_THAT(Result<SnapshotOutcome>(outcome).error().message,
             Catch::Contains("VM 'b': disk data cannot be flushed"));
  CHECK(rig.overlays.all().value().empty());
  rig.check_nothing_left();
}

TEST_CASE("what others write too, or what does not pass by, no VM can keep") {
  Rig rig(1, {{"not_kept", "the LUN is shared"}});
  Result<SnapshotOutcome> outcome = rig.coordinator().take(rig.request());
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().kind == ErrorKind::kArray);
  CHECK_THAT(outcome.error().message,
             Catch::Contains("disk data of VM 'a'") &&
                 Catch::Contains("there: the LUN is shared; name its array in plumb.toml"));
  rig.check_nothing_left();
}

TEST_CASE("of a disk that its VM cannot write to, it has nothing to keep") {
  Rig rig(1, {{"read_only", true}});
  REQUIRE(rig.coordinator().take(rig.request()).ok());
  CHECK(rig.guest().disks.kept == 0);
  CHECK(rig.overlays.chain("naa.adata").value().size() == 1);
}

}  // namespace plumb
