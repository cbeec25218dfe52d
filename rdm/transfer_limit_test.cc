#include "rdm/transfer_limit.h"

#include <catch2/catch.hpp>

#include "rdm/fake_sysfs.h"

namespace plumb {
namespace {

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";

Lun resolve(const FakeSysfs& sysfs) {
  return LunResolver(sysfs.roots()).resolve(LunId::parse(kWwn).value()).value();
}

}  // namespace

TEST_CASE("a command moves as much as the least of limits lets it") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  CHECK(transfer_limit(resolve(sysfs), sysfs.roots()).value() == 168 * 4096);
  sysfs.write("sys/block/sda/queue/max_hw_sectors_kb", "130\n");
  CHECK(transfer_limit(resolve(sysfs), sysfs.roots()).value() == 128 << 10U);
  sysfs.write("sys/block/sda/queue/max_hw_sectors_kb", "2147483644\n");
  sysfs.write("sys/block/sda/queue/max_segments", "65535\n");
  CHECK(transfer_limit(resolve(sysfs), sysfs.roots()).value() == 4U << 20U);
}

TEST_CASE("a multipath map has the limits of all its paths") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  sysfs.add_scsi("sdb", "8:16", kWwn);
  sysfs.write("sys/block/sdb/queue/max_segments", "16\n");
  sysfs.add_multipath("dm-0", "253:0", std::string("mpath-3") + (kWwn + 4), {"sda", "sdb"});
  CHECK(transfer_limit(resolve(sysfs), sysfs.roots()).value() == 16 * 4096);
  sysfs.write("sys/block/sdb/device/type", "5\n");
  CHECK_FALSE(transfer_limit(resolve(sysfs), sysfs.roots()).ok());
}

TEST_CASE("what takes no SCSI commands is refused by name") {
  FakeSysfs sysfs;
  sysfs.add_scsi("sda", "8:0", kWwn);
  Lun lun = resolve(sysfs);
  lun.transport = Lun::Transport::kNvme;
  CHECK(transfer_limit(lun, sysfs.roots()).error().message ==
        std::string("LUN ") + kWwn + " is an NVMe namespace, which takes no SCSI commands");
  sysfs.write("sys/block/sda/queue/max_segments", "");
  CHECK_FALSE(transfer_limit(resolve(sysfs), sysfs.roots()).ok());
}

}  // namespace plumb
