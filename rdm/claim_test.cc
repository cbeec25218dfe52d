#include "rdm/claim.h"

#include <catch2/catch.hpp>

#include "rdm/fake_sysfs.h"

namespace plumb {
namespace {

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";

std::string refusal(const FakeSysfs& sysfs, const char* wwn = kWwn, ClaimOptions options = {}) {
  Result<ClaimedLun> claimed =
      claim_lun(LunResolver(sysfs.roots()), LunId::parse(wwn).value(), options);
  return claimed.ok() ? "" : claimed.error().message;
}

}  // namespace

TEST_CASE("a mounted LUN is refused with its mount point") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("proc/self/mountinfo", "36 35 8:16 / /srv/db rw - ext4 /dev/sdb rw\n");
  CHECK_THAT(refusal(sysfs), Catch::Contains("in use on this host: it is mounted on /srv/db"));
}

TEST_CASE("a LUN with a mounted partition is refused with the partition") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("sys/block/sdb/sdb2/partition", "2\n");
  sysfs.write("sys/block/sdb/sdb2/dev", "8:18\n");
  sysfs.write("proc/self/mountinfo", "36 35 8:18 / /boot rw - ext4 /dev/sdb2 rw\n");
  CHECK_THAT(refusal(sysfs), Catch::Contains("its partition sdb2 is mounted on /boot"));
}

TEST_CASE("swap space is refused") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb partition 100 0 -2\n");
  CHECK_THAT(refusal(sysfs), Catch::Contains("it is swap space"));
}

TEST_CASE("a LUN held by device-mapper or md is refused with the holder") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("sys/block/sdb/holders/dm-3/dm/uuid", "LVM-xyz\n");
  CHECK_THAT(refusal(sysfs), Catch::Contains("it is held by dm-3 (LVM-xyz)"));
}

TEST_CASE("an identity that may not be unique needs consent") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", "t10.ATA     DISK");
  CHECK_THAT(refusal(sysfs, "t10.ATA     DISK"), Catch::Contains("allow-weak-identity"));
  CHECK_THAT(refusal(sysfs, "t10.ATA     DISK", {.allow_weak_identity = true}),
             Catch::Contains("cannot be opened"));
}

TEST_CASE("a read-only LUN is refused for writing") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("sys/block/sdb/ro", "1\n");
  CHECK_THAT(refusal(sysfs), Catch::Contains("is read-only"));
}

TEST_CASE("a LUN without a medium is refused") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("sys/block/sdb/size", "0\n");
  CHECK_THAT(refusal(sysfs), Catch::Contains("has no medium"));
}

TEST_CASE("a device that is not the one looked up is refused on the descriptor") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sdb", "8:16", kWwn);
  // The name leads to something that is no such block device.
  sysfs.write("dev/sdb", std::string(4096, '\0'));
  CHECK_FALSE(refusal(sysfs).empty());
}

TEST_CASE("mount points are found by number and by source") {
  const char* info =
      "22 1 0:21 / /proc rw - proc proc rw\n"
      "36 35 8:17 / /a rw,noatime shared:1 master:2 - ext4 /dev/sdb1 rw\n"
      "40 35 0:45 /@ /btrfs rw - btrfs /dev/sdc rw\n";
  CHECK(mount_point_in(info, "sdb1", "8:17") == "/a");
  CHECK(mount_point_in(info, "sdc", "8:32") == "/btrfs");
  CHECK_FALSE(mount_point_in(info, "sdb", "8:16"));
  CHECK_FALSE(mount_point_in(info, "sd", "8:1"));
}

TEST_CASE("broken mount and swap tables are read without harm") {
  const char* text = GENERATE("", "\n\n", "1 2 3", "a b c d e f -", "- - - - - - - - -", " \t \n");
  CAPTURE(text);
  CHECK_FALSE(mount_point_in(text, "sda", "8:0"));
  CHECK_FALSE(is_swap_in(text, "sda"));
}

}  // namespace plumb
