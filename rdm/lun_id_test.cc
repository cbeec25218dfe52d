#include "rdm/lun_id.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("an identity is brought to the kernel's form") {
  const auto [text, canonical] = GENERATE(table<const char*, const char*>({
      {"naa.60014051234abcd5000000000000000a", "naa.60014051234abcd5000000000000000a"},
      {"NAA.60014051234ABCD5000000000000000A", "naa.60014051234abcd5000000000000000a"},
      {"wwn-0x60014051234abcd5000000000000000a", "naa.60014051234abcd5000000000000000a"},
      {"/dev/disk/by-id/wwn-0x5000c50015ea71aa", "naa.5000c50015ea71aa"},
      {"0x5000c50015ea71aa", "naa.5000c50015ea71aa"},
      {"35000c50015ea71aa", "naa.5000c50015ea71aa"},
      {"naa.33333330000007d0", "naa.33333330000007d0"},
      {"eui.0025385a71b00001", "eui.0025385a71b00001"},
      {"nvme-eui.0025385a71b00001", "eui.0025385a71b00001"},
      {"uuid.6F4F24E6-1B2C-4E1D-9B30-0A1B2C3D4E5F", "uuid.6f4f24e6-1b2c-4e1d-9b30-0a1b2c3d4e5f"},
      {"dm.PLUMB-plumb.thin.web1-data", "dm.PLUMB-plumb.thin.web1-data"},
      {"/dev/disk/by-id/"
       "dm-uuid-LVM-3ZkM9sW8kqYbT0cVQ6c6lCPGXDJrMt9o1xUjT8hYw2vS5nRbE4aFgH7kLmPqWzXy",
       "dm.LVM-3ZkM9sW8kqYbT0cVQ6c6lCPGXDJrMt9o1xUjT8hYw2vS5nRbE4aFgH7kLmPqWzXy"},
      {"t10.ATA     QEMU HARDDISK     QM00005", "t10.ATA     QEMU HARDDISK     QM00005"},
      {"nvme.1b36-31-51454d55-00000001", "nvme.1b36-31-51454d55-00000001"},
  }));
  CAPTURE(text);
  CHECK(LunId::parse(text).value().text() == canonical);
}

TEST_CASE("what is no identity is refused, and the answer says what one looks like") {
  const char* text =
      GENERATE("", "sda", "/dev/sda", "naa.", "naa.123", "naa.6001405",
               "naa.g0014051234abcd5000000000000000a", "naa.60014051234abcd5000000000000000a0",
               "naa.7001405123456789", "eui.12", "uuid.6f4f24e6", "t10.", "nvme.", "dm.",
               "dm.LVM-short", "dm.CRYPT-LUKS2-x", "dm.PLUMB-",
               "dm.LVM-3ZkM9sW8kqYbT0cVQ6c6lCPGXDJrMt9o1xUjT8hYw2vS5nRbE4aFgH7kLmPqWzXy-tpool",
               "wwn-0x", "0x12", "naa.5000c50015ea71aa\n", "3", "\x01\x02");
  CAPTURE(text);
  Result<LunId> id = LunId::parse(text);
  REQUIRE_FALSE(id.ok());
  CHECK(id.error().kind == ErrorKind::kUsage);
  CHECK(id.error().message.find("plumb lun list") != std::string::npos);
}

TEST_CASE("a multipath map's identity comes from its UUID") {
  CHECK(LunId::from_multipath_uuid("mpath-360014051234abcd5000000000000000a").value().text() ==
        "naa.60014051234abcd5000000000000000a");
  CHECK(LunId::from_multipath_uuid("mpath-20025385a71b00001").value().text() ==
        "eui.0025385a71b00001");
  CHECK(LunId::from_multipath_uuid("mpath-eui.0025385a71b00001").value().text() ==
        "eui.0025385a71b00001");
  CHECK(LunId::from_multipath_uuid("mpath-1ATA     X").value().text() == "t10.ATA     X");
}

TEST_CASE("other device-mapper UUIDs are no multipath map") {
  const char* uuid = GENERATE("", "LVM-abc", "mpath-", "mpath-3", "mpath-3xyz", "part1-mpath-3600");
  CAPTURE(uuid);
  CHECK_FALSE(LunId::from_multipath_uuid(uuid).ok());
}

TEST_CASE("a device that reports no identity has one of its vendor, model and serial number") {
  CHECK(LunId::from_serial("ACME", "Disk 2000", "A 17").value().text() ==
        "serial.ACME_Disk_2000_A_17");
  CHECK_FALSE(LunId::from_serial("ACME", "Disk", "").ok());
  CHECK_FALSE(LunId::from_serial("ACME", "Disk", "\x1b[2J").ok());
}

TEST_CASE("identities made of model and serial number are weak") {
  CHECK(LunId::parse("t10.ATA X").value().weak());
  CHECK(LunId::parse("nvme.1b36-31-51-00000001").value().weak());
  CHECK(LunId::parse("serial.ATA_X_1").value().weak());
  CHECK_FALSE(LunId::parse("naa.5000c50015ea71aa").value().weak());
}

}  // namespace plumb
