#include "snapshot/arrays/equallogic.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "snapshot/arrays/eql_cli.h"
#include "tests/conformance/array_suite.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

constexpr uint64_t kVolumeBytes = 2U << 20U;
using conformance::good;
using conformance::Names;
using conformance::Requests;

// A group that fake_eql_group.py is, in place of ssh.
class GroupFixture final : public conformance::ArrayFixture {
 public:
  GroupFixture() {
    for (const char* program : {"ssh", "iscsiadm"}) {
      std::filesystem::create_symlink(PLUMB_FAKE_EQL_GROUP, path(program));
    }
    nlohmann::json volumes;
    for (int number = 1; number <= 3; ++number) {
      const std::string file = path("object-" + std::to_string(number));
      std::ofstream(file).close();
      std::filesystem::resize_file(file, kVolumeBytes);
      volumes["db" + std::to_string(number)] = {
          {"file", file},
          {"target", "iqn.2001-05.com.equallogic:0-" + std::to_string(number)},
          {"online", true},
          {"number", number},
          {"description", ""},
          {"access", nlohmann::json::array()},
          {"snapshots", nlohmann::json::object()}};
      const std::string wwn = fmt::format("naa.6090a018{:024x}", 0xf00 + number);
      disks_.push_back({{.wwn = wwn, .device = file, .size_bytes = kVolumeBytes}, file});
    }
    write("state.json", nlohmann::json({{"last", 100}, {"volumes", volumes}}).dump());
    std::filesystem::create_directories(path("host/sys/block"));
  }

  EqualLogicConfig config() const {
    EqualLogicConfig config{.name = "eql",
                            .address = "10.0.0.9",
                            .user = "plumb",
                            .key_file = "/etc/plumb/eql.key",
                            .group = "group-0",
                            .initiator = "iqn.1993-08.org.debian:01:host1",
                            .state_path = path("state/eql.json"),
                            .ssh_program = path("ssh"),
                            .iscsi_program = path("iscsiadm"),
                            .roots = roots()};
    for (size_t i = 0; i < disks_.size(); ++i) {
      config.luns[disks_[i].medium.wwn] = "db" + std::to_string(i + 1);
    }
    return config;
  }
  HostLuns host() const {
    return HostLuns({.roots = roots(), .appear_timeout_ms = 1000, .settle_ms = 0});
  }
  std::unique_ptr<ArrayProvider> open() override { return make_equallogic_array(config(), host()); }
  const std::vector<conformance::TestDisk>& disks() override { return disks_; }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
  std::string strays() const { return read_attribute(path("strays")); }
  // Of the group: its volumes, with their snapshots.
  Names objects() const {
    const auto state = nlohmann::json::parse(read_attribute(path("state.json")));
    Names names;
    for (const auto& [volume, content] : state["volumes"].items()) {
      names.push_back(volume);
      for (const auto& [name, snapshot] : content["snapshots"].items()) {
        names.push_back(volume + " " + name);
      }
    }
    return names;
  }
  Requests requests(ArrayProvider& array) {
    return {{conformance::volume_of(array, disks_[0]), "s0"},
            {conformance::volume_of(array, disks_[1]), "s1"}};
  }

 private:
  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }
  SystemRoots roots() const { return {path("host/sys"), path("host/proc"), path("host/dev")}; }
  TemporaryFolder folder_;
  std::vector<conformance::TestDisk> disks_;
};

const Names kUntouched = {"db1", "db2", "db3"};

}  // namespace

TEST_CASE("an EqualLogic group does what an array must") {
  GroupFixture fixture;
  conformance::run_array_suite(fixture);
  CHECK(fixture.strays().empty());
  CHECK(fixture.objects() == kUntouched);
}

TEST_CASE("whichever command the connection ends before, nothing stays that is not listed") {
  GroupFixture fixture;
  for (const char* command :
       {"^stty", "paging", "db1 show", "db1 snapshot create-now", "db2 snapshot create-now",
        "rename", "snapshot select plumb-\\S+ show", "logout"}) {
    CAPTURE(command);
    const auto array = fixture.open();
    const Requests requests = fixture.requests(*array);
    fixture.write("cut-at", command);
    auto prepared = array->prepare(requests);
    Result<> taken = prepared ? prepared.value()->take() : Result<>(prepared.error());
    const bool finished = taken && prepared.value()->finish().ok();
    if (prepared) std::move(prepared).value().reset();
    CHECK(finished == (std::string(command) == "logout"));
    for (const ArraySnapshot& left : good(array->list_snapshots(""))) good(array->remove(left.id));
    CHECK(fixture.objects() == kUntouched);
  }
  CHECK(fixture.strays().empty());
}

TEST_CASE("a snapshot that the group has deleted is found out") {
  GroupFixture fixture;
  const auto array = fixture.open();
  fixture.write("mood", "purges");
  const auto prepared = good(array->prepare(fixture.requests(*array)));
  good(prepared->take());
  CHECK_THAT(prepared->finish().error().message, Catch::Contains("does not exist"));
}

TEST_CASE("a snapshot that has gone later is not whole") {
  GroupFixture fixture;
  const auto array = fixture.open();
  const ArraySnapshot snapshot = conformance::snapshot_of(*array, fixture.disks()[0], "s");
  auto state = nlohmann::json::parse(read_attribute(
      std::filesystem::path(fixture.config().ssh_program).parent_path() / "state.json"));
  state["volumes"]["db1"]["snapshots"] = nlohmann::json::object();
  fixture.write("state.json", state.dump());
  const auto listed = good(array->list_snapshots(""));
  REQUIRE(listed.size() == 1);
  CHECK_FALSE(listed[0].whole);
  CHECK_FALSE(array->map(snapshot.id).ok());
  CHECK_FALSE(array->clone(snapshot.id, "c").ok());
  good(array->remove(snapshot.id));
  CHECK(conformance::snapshot_names(*array, "") == Names{});
}

TEST_CASE("what goes wrong with an EqualLogic group is told in a sentence") {
  GroupFixture fixture;
  EqualLogicConfig config = fixture.config();
  config.timeout_ms = 1'000;
  const auto array = make_equallogic_array(config, fixture.host());
  const auto [mood, reason] = GENERATE(table<std::string, const char*>({
      {"unknown-host", "ssh: Host key verification failed."},
      {"garbage", "its answers end before 'stty columns 255'"},
      {"silent", "still ran after 1 s"},
      {"giant", "wrote more than"},
      {"full", "the pool default is full"},
  }));
  fixture.write("mood", mood);
  CHECK_THAT(array->health().error().message,
             Catch::StartsWith("array eql (EqualLogic 10.0.0.9): ") && Catch::Contains(reason));
}

TEST_CASE("an answer of the command line is read between its prompts") {
  const std::vector<std::string> commands = {"volume select v show", "volume delete w"};
  const auto with = [](const std::string& first, const std::string& second) {
    std::string text = "Welcome\r\n\r\n";
    for (int i = 0; i < 7; ++i) text += "group-0> setting\r\n";
    return text + "group-0> " + first + "group-0> " + second + "group-0> logout\r\n";
  };
  // With and without an echo of what was typed.
  for (const std::string& echo : {std::string("volume select v show\r\n"), std::string()}) {
    const auto read =
        good(eql::answers(with(echo + "Size: 5GB   \r\niSCSI Name: iqn.x\r\n",
                               "volume delete w\r\n% Error - Volume w does not exist.\r\n"),
                          "group-0", commands));
    REQUIRE(read.size() == 2);
    CHECK(read[0].lines == std::vector<std::string>{"Size: 5GB", "iSCSI Name: iqn.x"});
    CHECK(read[0].after("Size:") == "5GB");
    CHECK(read[0].after("Free:").empty());
    CHECK(read[0].error.empty());
    CHECK(read[1].error == "Volume w does not exist.");
    CHECK(read[1].no_such());
  }
  const auto bare = good(eql::answers(with("", ""), "group-0", commands));
  CHECK(bare[0].lines.empty());
  // A prompt inside a line is none.
  const auto inside =
      good(eql::answers(with("Description: group-0> x\r\n", ""), "group-0", commands));
  CHECK(inside[0].after("Description:") == "group-0> x");
  const std::string whole = with("a\r\n", "b\r\n");
  CHECK_FALSE(eql::answers("", "group-0", commands).ok());
  CHECK_FALSE(eql::answers(whole, "other", commands).ok());
  CHECK_FALSE(eql::answers(whole.substr(0, whole.size() - 18), "group-0", commands).ok());
}

TEST_CASE("sizes and tables of the command line are read") {
  CHECK(eql::size_bytes("5GB").value() == 5ULL << 30U);
  CHECK(eql::size_bytes("1.5TB").value() == 3ULL << 39U);
  CHECK(eql::size_bytes("5120MB").value() == 5120ULL << 20U);
  for (const char* text : {"", "GB", "5", "5 GB", "-5GB", "5XB", "nanGB", "infGB", "1e30TB"}) {
    CAPTURE(text);
    CHECK_FALSE(eql::size_bytes(text).ok());
  }
  const eql::Answer table{{"Name     Status", "-------- ------", "one      online",
                           "a-very-l offline", "  ong-one", "two online"},
                          ""};
  CHECK(eql::first_column(table) == std::vector<std::string>{"one", "a-very-long-one", "two"});
  CHECK(eql::first_column({}).empty());
}

}  // namespace plumb
