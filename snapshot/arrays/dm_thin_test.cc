#include "snapshot/arrays/dm_thin.h"

#include <poll.h>

#include <algorithm>

#include "base/file.h"
#include "snapshot/arrays/fake_device_mapper.h"
#include "snapshot/arrays/thin_state.h"
#include "tests/conformance/array_suite.h"

namespace plumb {
namespace {

using conformance::fill;
using conformance::good;
using conformance::holds;
using conformance::Names;
using conformance::Requests;
using conformance::snapshot_names;
using conformance::snapshot_of;
using conformance::TestDisk;
using conformance::volume_of;

constexpr uint64_t kDiskBytes = 2U << 20U;
constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";

class ThinFixture final : public conformance::ArrayFixture {
 public:
  ThinFixture() {
    for (const char* id : {"1", "2", "3"}) {
      const std::string name = std::string("vol") + id;
      host.add_thin(id, kDiskBytes);
      host.add_device(name, id);
      const std::string path = host.path("devices/" + name);
      disks_.push_back({{.device = path, .size_bytes = kDiskBytes}, path});
    }
    // The first is exported as a LUN.
    disks_[0].medium.wwn = kWwn;
    disks_[0].medium.device = "/dev/sda";
  }

  std::unique_ptr<ArrayProvider> open() override {
    return make_dm_thin_array(
        {.name = "thin", .pool = "pool0", .state_path = state_path(), .luns = {{kWwn, "vol1"}}},
        std::make_unique<FakeDeviceMapper>(host));
  }
  const std::vector<TestDisk>& disks() override { return disks_; }
  std::string state_path() const { return host.path("state/thin.json"); }

  Requests two() {
    const auto array = open();
    return {{volume_of(*array, disks_[0]), "one"}, {volume_of(*array, disks_[1]), "two"}};
  }
  size_t thin_ids() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(host.path("thin")), {}));
  }
  std::string health() {
    Result<> health = open()->health();
    return health ? "" : health.error().message;
  }

  FakeThinHost host;

 private:
  std::vector<TestDisk> disks_;
};

std::string text_of(const std::vector<std::string>& log) {
  std::string text;
  for (const std::string& line : log) text += line + "\n";
  return text;
}

}  // namespace

TEST_CASE("a thin pool is an array") {
  ThinFixture fixture;
  run_array_suite(fixture);
  // The three volumes, and nothing else.
  CHECK(fixture.thin_ids() == 3);
}

TEST_CASE("all volumes are held before the first snapshot, until the last") {
  ThinFixture fixture;
  const auto array = fixture.open();
  const auto prepared = good(array->prepare(fixture.two()));
  fixture.host.log.clear();
  good(prepared->take());
  CHECK(text_of(fixture.host.log) ==
        "suspend vol1\nsuspend vol2\ncreate_snap 8388608 1\ncreate_snap 8388609 2\n"
        "resume vol1\nresume vol2\n");
}

TEST_CASE("a name and its id are durable before the pool is told") {
  ThinFixture fixture;
  const auto array = fixture.open();
  std::string known;
  fixture.host.before = [&](const std::string& what) {
    if (what.starts_with("create_snap")) known = read_file(fixture.state_path()).value();
    return 0;
  };
  const auto prepared = good(array->prepare(fixture.two()));
  good(prepared->take());
  CHECK_THAT(known, Catch::Contains("\"one\"") && Catch::Contains("8388608") &&
                        Catch::Contains("\"two\"") && Catch::Contains("8388609"));
}

TEST_CASE("whatever fails in a take, all volumes go on and nothing is left") {
  const std::string failing = GENERATE("suspend vol1", "suspend vol2", "create_snap 8388608 1",
                                       "create_snap 8388609 2", "resume vol1");
  CAPTURE(failing);
  ThinFixture fixture;
  const auto array = fixture.open();
  {
    const auto prepared = good(array->prepare(fixture.two()));
    bool failed_once = false;
    fixture.host.before = [&](const std::string& what) {
      return what == failing && !std::exchange(failed_once, true) ? EIO : 0;
    };
    conformance::refused(prepared->take(), *array);
  }
  CHECK_FALSE(fixture.host.suspended("vol1"));
  CHECK_FALSE(fixture.host.suspended("vol2"));
  CHECK(snapshot_names(*array, "") == Names{});
  CHECK(fixture.thin_ids() == 3);
}

TEST_CASE("volumes go on when the process dies while they are held") {
  ThinFixture fixture;
  const std::string said = in_child([&fixture] {
    fixture.host.before = [](const std::string& what) {
      if (what.starts_with("create_snap 8388609")) ::_exit(0);
      return 0;
    };
    const auto array = fixture.open();
    auto prepared = array->prepare(fixture.two());
    if (!prepared) return prepared.error().message;
    static_cast<void>(prepared.value()->take().ok());
    return std::string("survived");
  });
  CHECK(said.empty());
  // The guard outlives the process; the test waits for what it has to do, and for nothing else.
  for (int i = 0; i < 60'000 && fixture.host.suspended("vol2"); ++i) ::poll(nullptr, 0, 1);
  CHECK_FALSE(fixture.host.suspended("vol1"));
  CHECK_FALSE(fixture.host.suspended("vol2"));
  const auto array = fixture.open();
  for (const auto& left : good(array->list_snapshots(""))) {
    CHECK_FALSE(left.whole);
    good(array->remove(left.id));
  }
  CHECK(fixture.thin_ids() == 3);
}

TEST_CASE("an id that is another's is neither used nor deleted") {
  ThinFixture fixture;
  fixture.host.add_thin("8388608", 4096);
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "s");
  CHECK(fixture.host.has_thin("8388609"));
  good(array->remove(snapshot.id));
  CHECK(fixture.host.has_thin("8388608"));
  CHECK_FALSE(fixture.host.has_thin("8388609"));
}

TEST_CASE("a restore that was cut short is repeated, whatever the volume has become") {
  const std::string failing = GENERATE("create_snap 1 8388608", "reload vol1 thin", "delete 1");
  CAPTURE(failing);
  ThinFixture fixture;
  const TestDisk& disk = fixture.disks()[0];
  fill(disk.path, 1);
  const ArraySnapshot snapshot = snapshot_of(*fixture.open(), disk, "s");
  fill(disk.path, 2);
  bool failed_once = false;
  fixture.host.before = [&](const std::string& what) {
    return what == failing && !std::exchange(failed_once, true) ? EIO : 0;
  };
  CHECK_FALSE(fixture.open()->restore(snapshot.id, "vol1").ok());
  // What was not begun has changed nothing.
  if (failing == "delete 1") CHECK(holds(disk.path, kDiskBytes, 2));
  good(fixture.open()->restore(snapshot.id, "vol1"));
  CHECK(holds(disk.path, kDiskBytes, 1));
  CHECK(volume_of(*fixture.open(), disk).size_bytes == kDiskBytes);
}

TEST_CASE("a pool that is full, or not well, says so and takes no snapshots") {
  ThinFixture fixture;
  const Requests requests = fixture.two();
  CHECK(fixture.health().empty());
  const auto [status, reason] = GENERATE(table<const char*, const char*>({
      {"1 10/1024 10000/10000 - out_of_data_space - queue_if_no_space - 1024", "it is full (10000"},
      {"1 10/1024 10000/10000 - rw - queue_if_no_space - 1024", "it is full"},
      {"1 1010/1024 1/10000 - rw - queue_if_no_space - 1024", "its metadata is full (1010 of 1024"},
      {"1 10/1024 1/10000 - ro - queue_if_no_space needs_check 1024", "metadata needs a check"},
      {"1 10/1024 1/10000 - ro - queue_if_no_space - 1024", "it is in the mode 'ro'"},
      {"Fail", "the pool has failed"},
      {"Error", "the pool has failed"},
      {"1 10/1024", "not that of a thin pool"},
      {"1 10-1024 1/2 - rw", "not that of a thin pool"},
      {"", "not that of a thin pool"},
  }));
  CAPTURE(status);
  fixture.host.pool_status = status;
  CHECK_THAT(fixture.health(),
             Catch::StartsWith("array thin (pool pool0): ") && Catch::Contains(reason));
  CHECK_FALSE(fixture.open()->prepare(requests).ok());
  CHECK(snapshot_names(*fixture.open(), "") == Names{});
}

TEST_CASE("what is mapped is what a VM finds by its identity") {
  ThinFixture fixture;
  const auto array = fixture.open();
  const ArrayVolume made = array->create("web1-data", kDiskBytes).value();
  const MappedVolume mapped = array->map(made.id).value();
  CHECK(mapped.wwn == "dm.PLUMB-" + made.id);
  // The administrator's own has no such UUID.
  CHECK(array->map(volume_of(*array, fixture.disks()[1]).id).value().wwn.empty());
}

TEST_CASE("a pool of LVM is left to LVM") {
  ThinFixture fixture;
  fixture.host.pool_uuid = "LVM-abc-tpool";
  CHECK_THAT(fixture.health(), Catch::Contains("use the provider lvm-thin"));
}

TEST_CASE("a state file that is damaged, or another pool's, is an error and stays") {
  ThinFixture fixture;
  snapshot_of(*fixture.open(), fixture.disks()[0], "s");
  const std::string good_text = read_file(fixture.state_path()).value();
  const std::string half = good_text.substr(0, good_text.size() / 2);
  std::string other = good_text;
  other.replace(other.find("dm-thin pool0"), 13, "dm-thin pool1");
  std::string odd = good_text;
  odd.replace(odd.find("8388608"), 7, "\"eight\"");
  for (const std::string& text : {std::string(), half, other, odd}) {
    CAPTURE(text);
    good(replace_file(fixture.state_path(), text));
    const auto array = fixture.open();
    conformance::refused(array->list_snapshots(""), *array);
    conformance::refused(array->prepare(Requests{{{.id = "vol2"}, "t"}}), *array);
    CHECK(read_file(fixture.state_path()).value() == text);
  }
}

}  // namespace plumb
