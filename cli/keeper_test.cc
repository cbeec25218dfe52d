#include <sys/sysmacros.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "cli/keeper_process.h"
#include "cli/keeper_protocol.h"
#include "cli/lun_keeper.h"
#include "rdm/fake_sysfs.h"

namespace plumb {
namespace {

using State = LunFinding::State;

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";
constexpr const char* kOther = "naa.60014051234abcd5000000000000000b";

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// Page 0x83 with one NAA designator.
std::vector<std::byte> page_naming(const std::string& wwn) {
  std::vector<std::byte> page{std::byte{0}, std::byte{0x83}, std::byte{0}, std::byte{20},
                              std::byte{1}, std::byte{3},    std::byte{0}, std::byte{16}};
  for (size_t i = 4; i < wwn.size(); i += 2) {
    page.push_back(static_cast<std::byte>(std::stoi(wwn.substr(i, 2), nullptr, 16)));
  }
  return page;
}

// One LUN, sda, as the disk "data" of a VM; the LUN itself answers with `answers`, "" not at all.
struct Fixture {
  Fixture() { appear("sda", "8:0", kWwn, "2:0:0:1"); }

  void appear(const std::string& name, const std::string& number, const std::string& wwn,
              const std::string& address) {
    sysfs.add_scsi(name, number, wwn);
    const std::filesystem::path sys = sysfs.roots().sys;
    std::filesystem::create_directories(sys / "dev/block");
    std::filesystem::create_directories(sys / "devices" / address);
    std::filesystem::path device = sys / "block" / name / "device";
    for (const auto& entry : std::filesystem::directory_iterator(device)) {
      std::filesystem::rename(entry, sys / "devices" / address / entry.path().filename());
    }
    std::filesystem::remove(device);
    std::filesystem::create_directory_symlink(sys / "devices" / address, device);
    std::filesystem::create_directory_symlink(sys / "block" / name, sys / "dev/block" / number);
    sysfs.write("sys/block/" + name + "/diskseq", number.substr(2));
  }
  void vanish(const std::string& name, const std::string& number) {
    std::filesystem::remove_all(sysfs.roots().sys + "/block/" + name);
    std::filesystem::remove(sysfs.roots().sys + "/dev/block/" + number);
  }
  Result<> watch(const std::string& wwn = kWwn, dev_t number = makedev(8, 0)) {
    return keeper.watch({.disk = "data", .wwn = LunId::parse(wwn).value(), .options = {}}, number);
  }
  LunFinding look() { return keeper.look("data", false); }

  FakeSysfs sysfs;
  std::string answers = kWwn;
  LunKeeper keeper{LunResolver(sysfs.roots()),
                   [this](const std::string&, uint8_t) -> Result<std::vector<std::byte>> {
                     if (answers.empty()) return failed("no answer");
                     return page_naming(answers);
                   }};
};

}  // namespace

TEST_CASE("a keeper takes a LUN only with a descriptor of that LUN") {
  Fixture fixture;
  CHECK_FALSE(fixture.watch(kOther).ok());
  CHECK_FALSE(fixture.watch(kWwn, makedev(8, 16)).ok());
  CHECK(fixture.look().state == State::kLost);
  CHECK(fixture.watch().ok());
  CHECK(fixture.look().state == State::kWell);
  fixture.keeper.unwatch("data");
  CHECK(fixture.look().state == State::kLost);
}

TEST_CASE("another LUN that answers in its place is seen, and so is its return") {
  Fixture fixture;
  REQUIRE(fixture.watch().ok());
  fixture.answers = kOther;
  CHECK(fixture.look().state == State::kOther);
  CHECK(fixture.look().reason.ends_with("/dev/sda is " + std::string(kOther)));
  fixture.answers = "";
  CHECK(fixture.look().state == State::kSilent);
  fixture.answers = kWwn;
  CHECK(fixture.look().state == State::kWell);
}

TEST_CASE("a LUN that is not as it was is not gone on with") {
  Fixture fixture;
  REQUIRE(fixture.watch().ok());
  SECTION("smaller") {
    fixture.sysfs.write("sys/block/sda/size", "2097151\n");
    CHECK(fixture.look().reason == "it has shrunk from 1073741824 to 1073741312 bytes");
  }
  SECTION("other blocks") {
    fixture.sysfs.write("sys/block/sda/queue/logical_block_size", "4096\n");
    CHECK(fixture.look().reason == "its blocks of 512 bytes have become 4096 bytes");
  }
  SECTION("read-only") {
    fixture.sysfs.write("sys/block/sda/ro", "1\n");
    CHECK(fixture.look().reason == "it has become read-only");
  }
  SECTION("the kernel has looked again, and has found another") {
    fixture.sysfs.write("sys/block/sda/device/wwid", std::string(kOther) + "\n");
    CHECK(fixture.look().reason.ends_with("/dev/sda is " + std::string(kOther) + " now"));
  }
  CHECK(fixture.look().state == State::kOther);
}

TEST_CASE("news are what has changed since the last look, also when that was asked for") {
  Fixture fixture;
  REQUIRE(fixture.watch().ok());
  CHECK(fixture.keeper.news().empty());
  fixture.answers = kOther;
  REQUIRE(fixture.keeper.news().size() == 1);
  CHECK(fixture.keeper.news().empty());
  fixture.answers = kWwn;
  CHECK(fixture.look().state == State::kWell);
  // The same trouble as before is new again.
  fixture.answers = kOther;
  const std::vector<LunKeeper::News> news = fixture.keeper.news();
  REQUIRE(news.size() == 1);
  CHECK(news[0].disk == "data");
  CHECK(news[0].finding.state == State::kOther);
}

TEST_CASE("a LUN that has grown is told of once") {
  Fixture fixture;
  REQUIRE(fixture.watch().ok());
  CHECK_FALSE(fixture.look().grown);
  fixture.sysfs.write("sys/block/sda/size", "4194304\n");
  CHECK(fixture.look().grown);
  CHECK_FALSE(fixture.look().grown);
  // And may not become what it was before.
  fixture.sysfs.write("sys/block/sda/size", "2097152\n");
  CHECK(fixture.look().state == State::kOther);
}

TEST_CASE("a LUN whose device is gone is lost, and what is at its place is named") {
  Fixture fixture;
  REQUIRE(fixture.watch().ok());
  fixture.vanish("sda", "8:0");
  CHECK(fixture.look().state == State::kLost);
  fixture.appear("sdc", "8:32", kOther, "2:0:0:7");
  CHECK(fixture.look().state == State::kLost);
  fixture.appear("sdb", "8:16", kOther, "2:0:0:1");
  const LunFinding finding = fixture.look();
  CHECK(finding.state == State::kOther);
  CHECK(finding.reason.starts_with(std::string(kOther) + " is at its place now, as "));
}

TEST_CASE("another device with the number of the one in use is not taken for it") {
  Fixture fixture;
  REQUIRE(fixture.watch().ok());
  fixture.vanish("sda", "8:0");
  fixture.appear("sda", "8:0", kWwn, "2:0:0:2");
  fixture.sysfs.write("sys/block/sda/diskseq", "9");
  const LunFinding finding = fixture.look();
  CHECK(finding.state == State::kLost);
  CHECK(finding.reason.starts_with("it has come back as "));
}

TEST_CASE("requests and reports arrive as they were sent") {
  const KeeperRequest request{.action = KeeperRequest::Action::kWatch,
                              .disk = "data",
                              .wwn = kWwn,
                              .read_only = true,
                              .allow_weak_identity = true,
                              .shared = true,
                              .discard = false};
  const KeeperRequest got = decode_keeper_request(encode_keeper_request(request)).value();
  CHECK(encode_keeper_request(got) == encode_keeper_request(request));
  CHECK(got.shared);

  KeeperReport report{.about = KeeperReport::About::kNews,
                      .disk = "data",
                      .finding = {.state = State::kOther, .reason = "it has shrunk", .source = {}}};
  const KeeperReport heard = decode_keeper_report(encode_keeper_report(report), {}).value();
  CHECK(heard.about == KeeperReport::About::kNews);
  CHECK(heard.disk == "data");
  CHECK(heard.finding.state == State::kOther);
  CHECK(heard.finding.reason == "it has shrunk");
}

TEST_CASE("what is no message is refused") {
  for (const char* text : {"", "x", "[]", "{}", R"({"do":"look"})", R"({"do":7,"disk":"a"})",
                           R"({"do":"fly","disk":"a","wwn":"","read_only":false,)"
                           R"("allow_weak_identity":false,"shared":false,"discard":true})"}) {
    CHECK_FALSE(decode_keeper_request(bytes_of(text)).ok());
    CHECK_FALSE(decode_keeper_report(bytes_of(text), {}).ok());
  }
  // A claim without the claim's descriptor.
  CHECK_FALSE(
      decode_keeper_report(
          bytes_of(
              R"({"about":"look","disk":"a","state":"new","reason":"","grown":false,"source":{}})"),
          {})
          .ok());
}

TEST_CASE("events about disks are told from others") {
  const auto is = [](std::string_view text) { return is_disk_event(bytes_of(text)); };
  using namespace std::string_view_literals;
  CHECK(is("change@/devices/x\0ACTION=change\0SUBSYSTEM=block\0SEQNUM=1\0"sv));
  CHECK(is("change@/devices/x\0SUBSYSTEM=scsi\0SDEV_UA=INQUIRY_DATA_HAS_CHANGED"sv));
  CHECK_FALSE(is("change@/devices/x\0SUBSYSTEM=net\0"sv));
  CHECK_FALSE(is("SUBSYSTEM=blockx\0XSUBSYSTEM=block\0"sv));
  CHECK_FALSE(is(""sv));
  CHECK_FALSE(is("\0\0\0"sv));
}

}  // namespace plumb
