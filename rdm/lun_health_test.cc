#include "rdm/lun_health.h"

#include <catch2/catch.hpp>
#include <map>

#include "rdm/fake_sysfs.h"
#include "rdm/lun_designators.h"

namespace plumb {
namespace {

using Bytes = std::vector<std::byte>;

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";
constexpr const char* kOther = "naa.60014051234abcd5000000000000000b";

LunId id_of(const std::string& text) { return LunId::parse(text).value(); }

Bytes designator(unsigned association, unsigned type, const std::string& value) {
  Bytes bytes{std::byte{1}, std::byte(association << 4U | type), std::byte{0},
              std::byte(value.size())};
  for (const char c : value) bytes.push_back(static_cast<std::byte>(c));
  return bytes;
}

Bytes page_of(const std::vector<Bytes>& designators) {
  Bytes page{std::byte{0}, std::byte{0x83}, std::byte{0}, std::byte{0}};
  for (const Bytes& one : designators) page.insert(page.end(), one.begin(), one.end());
  page[3] = std::byte(page.size() - 4);
  return page;
}

// The binary form of "naa.HEX".
std::string naa_bytes(const std::string& wwn) {
  std::string bytes;
  for (size_t i = 4; i < wwn.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(wwn.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

Bytes page_naming(const std::string& wwn) {
  return page_of({designator(1, 4, std::string("\0\0\0\1", 4)), designator(0, 3, naa_bytes(wwn))});
}

// Answers by device name; a name that is not there does not answer.
struct FakeArray {
  std::map<std::string, Bytes> pages;
  int asked = 0;

  InquirePage inquire() {
    return [this](const std::string& device, uint8_t) -> Result<Bytes> {
      ++asked;
      const auto found = pages.find(device.substr(device.rfind('/') + 1));
      if (found == pages.end()) return failed("{} does not tell its identity", device);
      return found->second;
    };
  }
};

LunHealth health(const FakeSysfs& sysfs, FakeArray& array) {
  const LunResolver resolver(sysfs.roots());
  return examine_lun(resolver, resolver.resolve(id_of(kWwn)).value(), array.inquire());
}

}  // namespace

TEST_CASE("the names of a LUN are read from its page 0x83") {
  const Bytes page = page_of({designator(0, 1, "LIO-ORG data"), designator(0, 3, naa_bytes(kWwn)),
                              designator(0, 2, "12345678"),
                              designator(0, 8, std::string("eui.0011223344556677\0\0", 22))});
  const std::vector<LunId> names = lun_names(page);
  REQUIRE(names.size() == 4);
  CHECK(names[0].text() == "t10.LIO-ORG data");
  CHECK(names[1].text() == kWwn);
  CHECK(names[2].text() == "eui.3132333435363738");
  CHECK(names[3].text() == "eui.0011223344556677");
  CHECK(names_lun(names, id_of(kWwn)));
  CHECK(names_lun(names, id_of("t10.LIO-ORG____data")));
  CHECK_FALSE(names_lun(names, id_of(kOther)));
  CHECK_FALSE(names_lun(names, id_of("t10.LIO-ORG____date")));
}

TEST_CASE("ports, targets and what is malformed name no LUN") {
  CHECK(lun_names({}).empty());
  CHECK(lun_names(page_of({designator(1, 3, naa_bytes(kWwn))})).empty());
  CHECK(lun_names(page_of({designator(2, 3, naa_bytes(kWwn))})).empty());
  CHECK(lun_names(page_of({designator(0, 3, "short")})).empty());
  CHECK(lun_names(page_of({designator(0, 4, "1234")})).empty());
  Bytes wrong_page = page_naming(kWwn);
  wrong_page[1] = std::byte{0x80};
  CHECK(lun_names(wrong_page).empty());
}

TEST_CASE("a page cut off anywhere gives no name that is not in it") {
  const Bytes page = page_naming(kWwn);
  for (size_t length = 0; length < page.size(); ++length) {
    CHECK(lun_names(std::span(page).first(length)).empty());
  }
  Bytes longer = page;  // says more than there is
  longer[3] = std::byte{0xff};
  CHECK(lun_names(longer).size() == 1);
  longer[2] = std::byte{0xff};
  CHECK(lun_names(longer).size() == 1);
  Bytes overrun = page;  // the last designator does
  overrun[4 + 8 + 3] = std::byte{17};
  CHECK(lun_names(overrun).empty());
}

TEST_CASE("the serial number is read from page 0x80, wherever that is cut off") {
  Bytes page{std::byte{0}, std::byte{0x80}, std::byte{0}, std::byte{4}};
  for (const char c : std::string("A 17")) page.push_back(static_cast<std::byte>(c));
  CHECK(unit_serial(page) == "A17");
  for (size_t length = 0; length < page.size(); ++length) {
    CHECK(std::string("A17").starts_with(unit_serial(std::span(page).first(length))));
  }
  page[2] = std::byte{0xff};
  CHECK(unit_serial(page) == "A17");
  page[1] = std::byte{0x83};
  CHECK(unit_serial(page).empty());
}

TEST_CASE("a LUN without designators is known, and asked for, by its serial number") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", "");
  const LunResolver resolver(sysfs.roots());
  const Lun lun = resolver.resolve(id_of("serial.LIO-ORG_data_serial")).value();
  CHECK(lun.id.weak());
  const auto page80 = [](const std::string& serial) {
    return [serial](const std::string&, uint8_t code) -> Result<Bytes> {
      CHECK(code == 0x80);
      Bytes page{std::byte{0}, std::byte{0x80}, std::byte{0}, std::byte(serial.size())};
      for (const char c : serial) page.push_back(static_cast<std::byte>(c));
      return page;
    };
  };
  CHECK(examine_lun(resolver, lun, page80("serial")).state == LunState::kWell);
  CHECK(examine_lun(resolver, lun, page80("serial2")).state == LunState::kOther);
  CHECK(examine_lun(resolver, lun, page80("")).state == LunState::kOther);
}

TEST_CASE("a LUN that answers with its name is well") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  FakeArray array{{{"sda", page_naming(kWwn)}}};
  CHECK(health(sysfs, array).state == LunState::kWell);
  CHECK(health(sysfs, array).reason.empty());
}

TEST_CASE("another LUN in its place is seen, although the kernel still has the old name") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  FakeArray array{{{"sda", page_naming(kOther)}}};
  const LunHealth found = health(sysfs, array);
  CHECK(found.state == LunState::kOther);
  CHECK(found.reason.ends_with("/dev/sda is " + std::string(kOther)));
  array.pages["sda"] = page_of({});
  CHECK(health(sysfs, array).state == LunState::kOther);
}

TEST_CASE("of several paths one that answers is enough, and one that is another LUN is too many") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.add_multipath("dm-0", "253:0", "mpath-3" + std::string(kWwn).substr(4), {"sda", "sdb"});
  FakeArray array{{{"sda", page_naming(kWwn)}}};
  CHECK(health(sysfs, array).state == LunState::kWell);
  array.pages["sdb"] = page_naming(kOther);
  CHECK(health(sysfs, array).state == LunState::kOther);
  array.pages.clear();
  CHECK(health(sysfs, array).state == LunState::kSilent);
}

TEST_CASE("a path that is not up is not asked, and a LUN without one is lost") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  sysfs.write("sys/block/sda/device/state", "offline\n");
  FakeArray array{{{"sda", page_naming(kOther)}}};
  const LunHealth found = health(sysfs, array);
  CHECK(found.state == LunState::kLost);
  CHECK(found.reason == "none of its 1 paths is up");
  CHECK(array.asked == 0);
}

}  // namespace plumb
