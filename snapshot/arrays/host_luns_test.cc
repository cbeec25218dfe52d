#include "snapshot/arrays/host_luns.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "rdm/fake_sysfs.h"

namespace plumb {
namespace {

const LunId kId = LunId::parse("naa.600a0980776630497120000000000001").value();

class Host {
 public:
  Host() { sysfs.write("sys/class/scsi_host/host2/scan", ""); }
  HostLuns luns() const {
    return HostLuns({.roots = sysfs.roots(),
                     .multipath_program = sysfs.roots().sys + "/multipath",
                     .appear_timeout_ms = 300,
                     .settle_ms = 0});
  }
  void add(const std::string& name) {
    sysfs.add_scsi(name, name == "sdb" ? "8:16" : "8:32", kId.text());
    sysfs.write("sys/block/" + name + "/device/delete", "");
    sysfs.write("dev/" + name, "");
  }
  std::string read(const std::string& path) const {
    return read_attribute(sysfs.roots().sys + "/" + path);
  }
  FakeSysfs sysfs;
};

}  // namespace

TEST_CASE("a LUN that does not come is told after all hosts were asked to look") {
  Host host;
  Result<std::string> device = host.luns().appear(kId);
  REQUIRE_FALSE(device.ok());
  CHECK_THAT(device.error().message, Catch::Contains("is not on this host"));
  CHECK(host.read("class/scsi_host/host2/scan") == "- - -");
}

TEST_CASE("a LUN that is there is used as it is") {
  Host host;
  host.add("sdb");
  CHECK(host.luns().appear(kId).value() == host.sysfs.roots().dev + "/sdb");
  CHECK(host.read("class/scsi_host/host2/scan").empty());
}

TEST_CASE("two devices of one LUN are not one until a map joins them") {
  Host host;
  host.add("sdb");
  host.add("sdc");
  CHECK_THAT(host.luns().appear(kId).error().message, Catch::Contains("is ambiguous"));
}

TEST_CASE("all devices of a LUN go, and not one when it is in use") {
  Host host;
  CHECK(host.luns().vanish(kId).ok());
  host.add("sdb");
  SECTION("one path") {
    REQUIRE(host.luns().vanish(kId).ok());
    CHECK(host.read("block/sdb/device/delete") == "1");
  }
  SECTION("a multipath map goes before its paths") {
    host.add("sdc");
    host.sysfs.add_multipath("dm-3", "253:3", "mpath-3600a0980776630497120000000000001",
                             {"sdb", "sdc"});
    host.sysfs.write("sys/block/dm-3/dm/name", "mpatha\n");
    host.sysfs.write("dev/dm-3", "");
    const std::string program = host.sysfs.roots().sys + "/multipath";
    const bool refuses = GENERATE(false, true);
    host.sysfs.write("sys/multipath", std::string("#!/bin/sh\necho \"$@\" >\"$0.told\"\n") +
                                          (refuses ? "echo map in use >&2; exit 1\n" : ""));
    REQUIRE(::chmod(program.c_str(), 0700) == 0);
    Result<> gone = host.luns().vanish(kId);
    CHECK(host.read("multipath.told") == "-f mpatha");
    if (refuses) {
      CHECK_THAT(gone.error().message, Catch::EndsWith("map in use"));
      CHECK(host.read("block/sdb/device/delete").empty());
    } else {
      REQUIRE(gone.ok());
      CHECK(host.read("block/sdb/device/delete") == "1");
      CHECK(host.read("block/sdc/device/delete") == "1");
    }
  }
  SECTION("mounted") {
    host.sysfs.write("proc/self/mountinfo", "36 35 8:16 / /mnt rw,noatime - ext4 /dev/sdb rw\n");
    Result<> gone = host.luns().vanish(kId);
    REQUIRE_FALSE(gone.ok());
    CHECK(gone.error().kind == ErrorKind::kLocked);
    CHECK_THAT(gone.error().message, Catch::Contains("mounted on /mnt"));
    CHECK(host.read("block/sdb/device/delete").empty());
  }
}

}  // namespace plumb
