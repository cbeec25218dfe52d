// The suite runs over a real cluster in the lab too (tests/lab/cases/array-rbd.sh); here it runs
// over a program that answers as Ceph's do.
#include "snapshot/arrays/rbd.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "snapshot/arrays/rbd_answer.h"
#include "tests/conformance/array_suite.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

constexpr uint64_t kVolumeBytes = 2U << 20U;
using conformance::good;
using conformance::Names;
using conformance::refused;
using conformance::Requests;
using conformance::snapshot_of;
using conformance::volume_of;
using nlohmann::json;

class CephFixture final : public conformance::ArrayFixture {
 public:
  CephFixture() {
    for (const char* program : {"rbd", "ceph"}) {
      std::filesystem::create_symlink(PLUMB_FAKE_CEPH, path(program));
    }
    std::filesystem::create_directories(path("sys"));
    std::filesystem::create_directories(path("dev"));
    json images;
    for (int number = 1; number <= 3; ++number) {
      const std::string id = "10" + std::to_string(number);
      std::ofstream(path(id)).close();
      std::filesystem::resize_file(path(id), kVolumeBytes);
      images["db" + std::to_string(number)] = {
          {"id", id}, {"size", kVolumeBytes}, {"snapshots", json::array()}};
      const std::string wwn = fmt::format("naa.6001405{:025x}", number);
      disks_.push_back({{.wwn = wwn, .device = path(id), .size_bytes = kVolumeBytes}, path(id)});
      config.luns[wwn] = "db" + std::to_string(number);
    }
    const json well = {{"status", "HEALTH_OK"}, {"checks", json::object()}};
    set("last", 256);
    set("images", images);
    set("health", well);
    config.rbd_program = path("rbd");
    config.ceph_program = path("ceph");
    config.sys_folder = path("sys");
    config.device_folder = path("dev");
  }

  std::unique_ptr<ArrayProvider> open() override { return make_rbd_array(config); }
  const std::vector<conformance::TestDisk>& disks() override { return disks_; }

  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }
  json state() const { return json::parse(read_attribute(path("state.json")), nullptr, false); }
  void set(const std::string& key, const json& value) {
    json now = state().is_object() ? state() : json::object();
    now[key] = value;
    std::ofstream(path("state.json")) << now.dump();
  }
  // Of the image, in the pool.
  void change(const std::string& image, const std::string& key, const json& value) {
    json images = state()["images"];
    images[image][key] = value;
    set("images", images);
  }
  // What a command answers from now on: an errno.
  void plant(const std::string& command, int status) { set("plant", {{command, status}}); }
  void plant_nothing() { set("plant", json::object()); }
  Names images() const {
    Names names;
    const json now = state();
    for (const auto& [name, image] : now["images"].items()) names.push_back(name);
    return names;
  }

  RbdConfig config{.name = "ceph", .pool = "rbd"};

 private:
  TemporaryFolder folder_;
  std::vector<conformance::TestDisk> disks_;
};

const Names kOnlyDisks = {"db1", "db2", "db3"};

json check_of(const char* severity, const char* summary, const json& details) {
  return {{"severity", severity}, {"summary", {{"message", summary}}}, {"detail", details}};
}

RbdHealth health_of(const std::string& status, const json& checks) {
  return good(rbd_answer::health(json({{"status", status}, {"checks", checks}}).dump(), "rbd"));
}

}  // namespace

TEST_CASE("rbd: a pool of Ceph is an array") {
  CephFixture fixture;
  run_array_suite(fixture);
  CHECK(fixture.images() == kOnlyDisks);
}

TEST_CASE("rbd: a pool's namespace, and who asks, are said with every call") {
  CephFixture fixture;
  fixture.config.pool_namespace = "vms";
  fixture.config.id = "plumb";
  fixture.config.keyring = "/etc/ceph/plumb.keyring";
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "s");
  good(array->map(good(array->clone(snapshot.id, "c")).id));
  good(array->health());
  std::ifstream calls(fixture.path("calls"));
  for (std::string call; std::getline(calls, call);) {
    CAPTURE(call);
    CHECK_THAT(call, Catch::EndsWith(" --id=plumb --keyring=/etc/ceph/plumb.keyring"));
    if (call.starts_with("rbd")) CHECK_THAT(call, Catch::Contains(" --namespace=vms "));
    if (call.find("--dest=") != std::string::npos) {
      CHECK_THAT(call, Catch::Contains(" --dest-pool=rbd --dest-namespace=vms "));
    }
  }
}

TEST_CASE("rbd: a removed volume goes with the last that depends on it") {
  CephFixture fixture;
  const auto array = fixture.open();
  const ArraySnapshot origin = snapshot_of(*array, fixture.disks()[0], "origin");
  const ArrayVolume clone = good(array->clone(origin.id, "clone"));
  const ArraySnapshot of_clone = conformance::snapshots_of(*array, {{clone, "of-clone"}})[0];
  const ArrayVolume second = good(array->clone(of_clone.id, "second"));
  good(array->remove(clone.id));
  CHECK(conformance::volume_names(*array, "") == Names{"second"});
  good(array->remove(clone.id));  // is gone
  refused(array->clone(clone.id, "x"), *array);
  // Its name is free again.
  good(array->remove(good(array->create("clone", kVolumeBytes)).id));
  good(array->remove(of_clone.id));
  good(array->remove(origin.id));
  const std::string gone = "plumb.ceph.clone.gone-" + clone.id;
  CHECK(fixture.images() == Names{"db1", "db2", "db3", gone, "plumb.ceph.second"});
  good(array->remove(second.id));
  CHECK(fixture.images() == kOnlyDisks);
}

TEST_CASE("rbd: what is cut short is not whole, and can be removed") {
  CephFixture fixture;
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "s");
  SECTION("a clone that has not got its name") {
    fixture.plant("rename", EIO);
    refused(array->clone(snapshot.id, "c"), *array);
    CHECK(conformance::volume_names(*array, "") == Names{});
    fixture.plant_nothing();
    json images = fixture.state()["images"];
    images["plumb.ceph.c.new"] = {{"id", "10c"}, {"size", 4096}, {"snapshots", json::array()}};
    fixture.set("images", images);
    std::ofstream(fixture.path("10c")).close();
    refused(array->clone(snapshot.id, "c"), *array);
  }
  SECTION("an image that cannot be opened") {
    json images = fixture.state()["images"];
    images["plumb.ceph.c.new"] = {{"broken", true}, {"id", ""}, {"snapshots", json::array()}};
    images["plumb.ceph.t"] = images["plumb.ceph.c.new"];
    images["plumb.other.t"] = images["plumb.ceph.c.new"];
    fixture.set("images", images);
    const auto snapshots = good(array->list_snapshots("t"));
    REQUIRE(snapshots.size() == 1);
    CHECK_FALSE(snapshots[0].whole);
    good(array->remove(snapshots[0].id));
    good(array->remove("name:plumb.other.t"));
    good(array->remove("name:db1"));
    CHECK(fixture.images() ==
          Names{"db1", "db2", "db3", "plumb.ceph.c.new", "plumb.ceph.s", "plumb.other.t"});
  }
  const auto volumes = good(array->list_volumes(""));
  REQUIRE(volumes.size() == 1);
  CHECK(volumes[0].name == "c");
  CHECK_FALSE(volumes[0].whole);
  refused(array->map(volumes[0].id), *array);
  good(array->remove(volumes[0].id));
  CHECK(array->list_volumes("").value().empty());
}

TEST_CASE("rbd: a take that fails leaves nothing, at any step") {
  CephFixture fixture;
  const auto array = fixture.open();
  const Requests requests = {{volume_of(*array, fixture.disks()[0]), "a"},
                             {volume_of(*array, fixture.disks()[1]), "b"}};
  const auto run = [&]() -> Result<> {
    auto prepared = TRY(array->prepare(requests));
    TRY(prepared->take());
    TRY(prepared->finish());
    return {};
  };
  for (const char* command : {"ls", "create", "create plumb.ceph.b", "snap create",
                              "snap create db2", "snap rename", "snap rename db2"}) {
    CAPTURE(command);
    fixture.plant(command, ETIMEDOUT);
    refused(run(), *array);
    fixture.plant_nothing();
    CHECK(fixture.images() == kOnlyDisks);
    const json now = fixture.state();
    for (const auto& [name, image] : now["images"].items()) {
      CHECK(image["snapshots"].empty());
    }
  }
}

TEST_CASE("rbd: an image in use is not rolled back") {
  CephFixture fixture;
  const auto array = fixture.open();
  const ArrayVolume volume = good(array->create("v", kVolumeBytes));
  const ArraySnapshot snapshot = conformance::snapshots_of(*array, {{volume, "s"}})[0];
  good(array->map(volume.id));
  good(array->restore(snapshot.id, volume.id));  // this host's own map is no use
  fixture.change("plumb.ceph.v", "watchers", {4242});
  auto restored = array->restore(snapshot.id, volume.id);
  REQUIRE_FALSE(restored.ok());
  CHECK(restored.error().kind == ErrorKind::kLocked);
  CHECK_THAT(restored.error().message, Catch::Contains("in use by client 4242 of Ceph"));
  good(array->unmap(volume.id));
  good(array->remove(snapshot.id));
  CHECK(array->remove(volume.id).error().kind == ErrorKind::kLocked);
}

TEST_CASE("rbd: a kernel that keeps the lock of an image gives it away for a restore") {
  CephFixture fixture;
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "s");
  fixture.change("db1", "locked", true);
  good(array->restore(snapshot.id, snapshot.volume_id));
  CHECK(fixture.state()["images"]["db1"]["snapshots"].size() == 1);
  // Cut short while it asked.
  fixture.change("db1", "locked", true);
  fixture.plant("snap rm", ETIMEDOUT);
  refused(array->restore(snapshot.id, snapshot.volume_id), *array);
  fixture.plant_nothing();
  json snapshots = fixture.state()["images"]["db1"]["snapshots"];
  json left = snapshots[0];
  left["id"] = 999;
  left["name"] = "plumb.ceph.s.lock";
  std::ofstream(fixture.path("101@999")).close();
  snapshots.push_back(left);
  fixture.change("db1", "snapshots", snapshots);
  good(array->restore(snapshot.id, snapshot.volume_id));
  snapshots = fixture.state()["images"]["db1"]["snapshots"];
  CHECK(snapshots.size() == 1);
  snapshots.push_back(left);
  std::ofstream(fixture.path("101@999")).close();
  fixture.change("db1", "snapshots", snapshots);
  good(array->remove(snapshot.id));
  CHECK(fixture.state()["images"]["db1"]["snapshots"].empty());
}

TEST_CASE("rbd: devices of another cluster, pool or namespace are not this array's") {
  CephFixture fixture;
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "s");
  const std::string device = good(array->map(snapshot.id)).device;
  const std::string number = device.substr(device.rfind("rbd") + 3);
  for (const char* attribute : {"cluster_fsid", "pool", "pool_ns", "image_id", "snap_id"}) {
    CAPTURE(attribute);
    const std::string file = fixture.path("sys/" + number + "/" + attribute);
    const std::string was = read_attribute(file);
    std::ofstream(file) << "1234\n";
    const std::string other = good(array->map(snapshot.id)).device;
    CHECK(other != device);
    good(array->unmap(snapshot.id));
    CHECK(std::filesystem::exists(device));
    std::ofstream(file) << was << "\n";
  }
  CHECK(good(array->map(snapshot.id)).device == device);
}

TEST_CASE("rbd: a pool that takes no writes takes no snapshots") {
  CephFixture fixture;
  const auto array = fixture.open();
  const Requests requests = {{volume_of(*array, fixture.disks()[0]), "a"}};
  const auto with = [&](const json& checks) {
    fixture.set("health", {{"status", "HEALTH_ERR"}, {"checks", checks}});
  };
  with({{"POOL_FULL", check_of("HEALTH_WARN", "1 pool(s) full", json::array())}});
  fixture.plant("create", EDQUOT);
  CHECK_THAT(array->prepare(requests).error().message,
             Catch::Equals("array ceph (Ceph pool rbd): it takes no writes: POOL_FULL: 1 pool(s) "
                           "full"));
  refused(array->health(), *array);
  fixture.plant_nothing();
  // What is only to be repaired is no reason to be without snapshots.
  with({{"PG_DAMAGED", check_of("HEALTH_ERR", "1 pg inconsistent", json::array())}});
  CHECK(array->prepare(requests).ok());
  CHECK_THAT(array->health().error().message, Catch::EndsWith("PG_DAMAGED: 1 pg inconsistent"));
}

TEST_CASE("the health of Ceph is read for one pool") {
  const auto full = [](const char* pool) {
    const std::string text = std::string("pool '") + pool + "' is full (no quota)";
    return json({{"POOL_FULL", check_of("HEALTH_WARN", "full", {{{"message", text}}})}});
  };
  CHECK(health_of("HEALTH_WARN", full("rbd")).stopped == "POOL_FULL: full");
  CHECK(health_of("HEALTH_WARN", full("rbd2")).stopped.empty());
  const auto one = [](const char* code, const char* severity) {
    return json({{code, check_of(severity, "x", json::array())}});
  };
  CHECK(health_of("HEALTH_WARN", one("PG_AVAILABILITY", "HEALTH_WARN")).stopped ==
        "PG_AVAILABILITY: x");
  CHECK(health_of("HEALTH_WARN", one("OSD_DOWN", "HEALTH_WARN")).ill.empty());
  json muted = one("PG_DAMAGED", "HEALTH_ERR");
  CHECK(health_of("HEALTH_ERR", muted).ill == "PG_DAMAGED: x");
  muted["PG_DAMAGED"]["muted"] = true;
  CHECK(health_of("HEALTH_OK", muted).ill.empty());
  CHECK(health_of("HEALTH_ERR", json::object()).ill == "HEALTH_ERR");
}

TEST_CASE("what Ceph's programs write is read") {
  const auto images = good(rbd_answer::images(
      R"([{"image":"c1","id":"10a","size":67108864,"parent":{"pool":"rbd"},"format":2},
          {"image":"old","size":5,"format":1},
          {"image":"vol1","id":"10b","size":8,"format":2},
          {"image":"vol1","id":"10b","snapshot":"s1","snapshot_id":4,"size":4,"protected":"false"}])"));
  REQUIRE(images.size() == 2);
  CHECK(images[0].snapshots.empty());
  CHECK(images[1].id == "10b");
  CHECK(images[1].name == "vol1");
  CHECK(images[1].size_bytes == 8);
  REQUIRE(images[1].snapshots.size() == 1);
  CHECK(images[1].snapshots[0].id == 4);
  CHECK(images[1].snapshots[0].name == "s1");
  CHECK(images[1].snapshots[0].size_bytes == 4);
  CHECK(good(rbd_answer::names(R"(["a","b"])")) == Names{"a", "b"});
  CHECK(good(rbd_answer::image(R"({"name":"a","id":"10a","size":4096})")).id == "10a");
  CHECK(good(rbd_answer::watchers(R"({"watchers":[{"address":"x","client":7,"cookie":1}]})")) ==
        std::vector<uint64_t>{7});
  CHECK(good(rbd_answer::fsid("\n{\"fsid\":\"6d2a\"}")) == "6d2a");
  const auto pools = [](const char* more) {
    return fmt::format(R"({{"pools":[{{"name":"x"}},{{"name":"rbd","stats":{{"stored":100,
        "max_avail":900{}}}}}]}})",
                       more);
  };
  for (const auto& [more, total, free] :
       {std::tuple("", 1000U, 900U), std::tuple(R"(,"quota_bytes":0)", 1000U, 900U),
        std::tuple(R"(,"quota_bytes":300)", 300U, 200U),
        std::tuple(R"(,"quota_bytes":50)", 50U, 0U),
        std::tuple(R"(,"quota_bytes":5000)", 1000U, 900U)}) {
    CAPTURE(more);
    const ArrayCapacity capacity = good(rbd_answer::capacity(pools(more), "rbd"));
    CHECK(capacity.total_bytes == total);
    CHECK(capacity.free_bytes == free);
  }
}

TEST_CASE("what is no answer of Ceph's is refused") {
  for (const char* text :
       {"", "{}", "[", "[1]", R"([{"image":"a","id":"1"}])", R"([{"image":1,"id":"1","size":1}])",
        R"([{"image":"a","id":"1","size":-1}])", R"([{"image":"a","id":"1","size":"1"}])",
        R"([{"image":"a","id":"1","snapshot":"s","snapshot_id":1,"size":1}])",
        R"([{"image":"a","id":"1","size":1},{"image":"a","id":"1","snapshot":"s","size":1}])",
        R"([{"image":"a\u0001","id":"1","size":1}])"}) {
    CAPTURE(text);
    CHECK_FALSE(rbd_answer::images(text).ok());
  }
  for (const char* text : {"", "{}", "[1]", "x"}) CHECK_FALSE(rbd_answer::names(text).ok());
  for (const char* text :
       {"", "[]", "{}", R"({"name":"a","size":1})", R"({"name":"a","id":"1"})"}) {
    CAPTURE(text);
    CHECK_FALSE(rbd_answer::image(text).ok());
  }
  for (const char* text : {"", "{}", R"({"watchers":1})", R"({"watchers":[{}]})"}) {
    CHECK_FALSE(rbd_answer::watchers(text).ok());
  }
  for (const char* text : {"", "[]", R"({"fsid":""})"}) CHECK_FALSE(rbd_answer::fsid(text).ok());
  for (const char* text :
       {"", R"({"pools":[]})", R"({"pools":[{}]})", R"({"pools":[{"name":"rbd"}]})"}) {
    CHECK_FALSE(rbd_answer::capacity(text, "rbd").ok());
  }
  for (const char* text : {"", R"({"status":"HEALTH_OK"})", R"({"status":1,"checks":{}})",
                           R"({"status":"HEALTH_ERR","checks":{"A":{"severity":1}}})"}) {
    CHECK_FALSE(rbd_answer::health(text, "rbd").ok());
  }
}

}  // namespace plumb
