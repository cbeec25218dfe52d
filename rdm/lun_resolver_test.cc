#include "rdm/lun_resolver.h"

#include <sys/sysmacros.h>

#include <catch2/catch.hpp>

#include "rdm/fake_sysfs.h"
#include "rdm/transfer_limit.h"

namespace plumb {
namespace {

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";
constexpr const char* kOther = "naa.60014051234abcd5000000000000000b";

LunId id_of(const char* text) { return LunId::parse(text).value(); }

}  // namespace

TEST_CASE("a SCSI LUN is found by its WWN, with its facts") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kOther);
  sysfs.add_scsi("sdb", "8:16", kWwn);
  const LunResolver resolver(sysfs.roots());
  const Lun lun = resolver.resolve(id_of(kWwn)).value();
  CHECK(lun.name == "sdb");
  CHECK(lun.number == makedev(8, 16));
  CHECK(lun.size_bytes == 1ULL << 30U);
  CHECK(lun.logical_block_size == 512);
  CHECK(lun.physical_block_size == 4096);
  CHECK(lun.vendor == "LIO-ORG");
  CHECK(lun.serial == "serial");
  CHECK(lun.write_cache == "write through");
  CHECK(lun.fua);
}

TEST_CASE("the same WWN is found again under another device name") {
  FakeSysfs before;
  before.add_scsi("sda", "8:0", kWwn);
  FakeSysfs after;
  after.add_scsi("sda", "8:0", kOther);
  after.add_scsi("sdf", "8:80", kWwn);
  CHECK(LunResolver(before.roots()).resolve(id_of(kWwn)).value().name == "sda");
  CHECK(LunResolver(after.roots()).resolve(id_of(kWwn)).value().name == "sdf");
}

TEST_CASE("a volume of this host is found by its device-mapper UUID") {
  FakeSysfs sysfs;
  sysfs.add_volume("dm-3", "253:3", "PLUMB-plumb.thin.web1-data");
  sysfs.add_volume("dm-4", "253:4", "CRYPT-LUKS2-x");
  const LunResolver resolver(sysfs.roots());
  const Lun lun = resolver.resolve(id_of("dm.PLUMB-plumb.thin.web1-data")).value();
  CHECK(lun.name == "dm-3");
  CHECK(lun.transport == Lun::Transport::kVolume);
  REQUIRE(lun.paths.size() == 1);
  CHECK(lun.paths.front().state == "running");
  CHECK(resolver.list().size() == 1);
  CHECK_FALSE(transfer_limit(lun, sysfs.roots()).ok());
}

TEST_CASE("an unknown WWN is refused by name") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kOther);
  Result<Lun> lun = LunResolver(sysfs.roots()).resolve(id_of(kWwn));
  REQUIRE_FALSE(lun.ok());
  CHECK(lun.error().message.find(kWwn) != std::string::npos);
  CHECK(lun.error().message.find("1 other LUNs") != std::string::npos);
}

TEST_CASE("two devices with one WWN and no multipath map are refused, both named") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  sysfs.add_scsi("sdb", "8:16", kWwn);
  Result<Lun> lun = LunResolver(sysfs.roots()).resolve(id_of(kWwn));
  REQUIRE_FALSE(lun.ok());
  CHECK(lun.error().message.find("/sda, ") != std::string::npos);
  CHECK(lun.error().message.find("/sdb all have this identity") != std::string::npos);
}

TEST_CASE("a multipath map wins over its paths") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.add_multipath("dm-0", "254:0", "mpath-360014051234abcd5000000000000000a", {"sda", "sdb"});
  const Lun lun = LunResolver(sysfs.roots()).resolve(id_of(kWwn)).value();
  CHECK(lun.name == "dm-0");
  CHECK(lun.transport == Lun::Transport::kMultipath);
  REQUIRE(lun.paths.size() == 2);
  CHECK(lun.paths[1].name == "sdb");
  CHECK(lun.paths[1].state == "running");
  CHECK(lun.vendor == "LIO-ORG");
}

TEST_CASE("a third device with the WWN beside a multipath map is a duplicate") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.add_scsi("sdc", "8:32", kWwn);
  sysfs.add_multipath("dm-0", "254:0", "mpath-360014051234abcd5000000000000000a", {"sda", "sdb"});
  CHECK_FALSE(LunResolver(sysfs.roots()).resolve(id_of(kWwn)).ok());
}

TEST_CASE("an NVMe namespace with one controller is a LUN with one path") {
  FakeSysfs sysfs;
  sysfs.add_disk("nvme0n1", "259:0");
  sysfs.write("sys/block/nvme0n1/wwid", "eui.0025385a71b00001\n");
  sysfs.write("sys/block/nvme0n1/device/state", "live\n");
  const Lun lun = LunResolver(sysfs.roots()).resolve(id_of("eui.0025385a71b00001")).value();
  CHECK(lun.name == "nvme0n1");
  CHECK(lun.transport == Lun::Transport::kNvme);
  REQUIRE(lun.paths.size() == 1);
  CHECK(lun.paths[0].name == "nvme0n1");
  CHECK(lun.paths[0].state == "live");
}

TEST_CASE("the hidden paths of an NVMe namespace are its paths, and no LUNs") {
  FakeSysfs sysfs;
  for (const char* name : {"nvme1n1", "nvme1c0n1", "nvme1c3n1", "nvme1c3n11", "nvme11c0n1"}) {
    const std::string block = "sys/block/" + std::string(name);
    const bool hidden = std::string(name).find('c') != std::string::npos;
    sysfs.add_disk(name, hidden ? "0:0" : "259:0");
    sysfs.write(block + "/wwid", "eui.0025385a71b00001\n");
    sysfs.write(block + "/hidden", hidden ? "1\n" : "0\n");
    if (hidden) sysfs.write(block + "/device/state", "live\n");
  }
  sysfs.write("sys/block/nvme1c0n1/ana_state", "optimized\n");
  sysfs.write("sys/block/nvme1c3n1/ana_state", "inaccessible\n");
  const std::vector<Lun> luns = LunResolver(sysfs.roots()).list();
  REQUIRE(luns.size() == 1);
  CHECK(luns[0].name == "nvme1n1");
  REQUIRE(luns[0].paths.size() == 2);
  CHECK(luns[0].paths[0].name == "nvme1c0n1");
  CHECK(luns[0].paths[0].state == "live");
  CHECK(luns[0].paths[1].name == "nvme1c3n1");
  CHECK(luns[0].paths[1].state == "inaccessible");
}

TEST_CASE("disks without an identity and strange attributes are no LUNs") {
  FakeSysfs sysfs;
  sysfs.add_disk("vda", "254:0");
  sysfs.add_disk("dm-1", "253:1");
  sysfs.write("sys/block/dm-1/dm/uuid", "LVM-abcdef\n");
  sysfs.add_scsi("sda", "8:0", "naa.garbage");
  sysfs.add_scsi("sdb", "8:16", "");
  sysfs.write("sys/block/sdb/device/vpd_pg80", std::string("\0\x80\0\0", 4));
  CHECK(LunResolver(sysfs.roots()).list().empty());
}

TEST_CASE("a system without sysfs has no LUNs") {
  CHECK(LunResolver(SystemRoots{"/nonexistent", "/nonexistent", "/nonexistent"}).list().empty());
}

}  // namespace plumb
