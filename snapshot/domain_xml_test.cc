#include "snapshot/domain_xml.h"

#include <catch2/catch.hpp>
#include <string>

namespace plumb {
namespace {

std::string domain_with(const std::string& devices) {
  return "<domain type='qemu' id='1'><name>db1</name><devices>" + devices + "</devices></domain>";
}

const std::string kFile =
    "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>"
    "<source file='/srv/db1 &amp; co.img' index='1'/><backingStore/>"
    "<target dev='vda' bus='virtio'/></disk>";
const std::string kBlock =
    "<disk type='block' device='lun'><driver name='qemu' type='raw'/>"
    "<source dev='/dev/disk/by-id/wwn-0x6001405'/><target dev='sdb' bus='scsi'/></disk>";

std::string refusal(const std::string& devices) {
  Result<DomainDisks> disks = disks_of_domain(domain_with(devices));
  REQUIRE_FALSE(disks.ok());
  return disks.error().message;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const size_t at = text.find(what);
  REQUIRE(at != std::string::npos);
  return text.replace(at, what.size(), by);
}

}  // namespace

TEST_CASE("images and LUNs of a domain are found in their order") {
  const DomainDisks found = disks_of_domain(domain_with(kFile + "<emulator/>" + kBlock)).value();
  REQUIRE(found.disks.size() == 2);
  CHECK(found.disks[0].id == "vda");
  CHECK_FALSE(found.disks[0].block);
  CHECK(found.disks[0].path == "/srv/db1 & co.img");
  CHECK(found.disks[1].id == "sdb");
  CHECK(found.disks[1].block);
  CHECK(found.disks[1].path == "/dev/disk/by-id/wwn-0x6001405");
  CHECK(found.left_out.empty());
  CHECK(disks_of_domain(domain_with("")).value().disks.empty());
}

TEST_CASE("a disk is a disk when libvirt does not say which device it is") {
  CHECK(disks_of_domain(domain_with(replaced(kFile, " device='disk'", ""))).value().disks.size() ==
        1);
}

TEST_CASE("CD-ROMs and floppies are left out, with a sentence when they have a medium") {
  const std::string cdrom =
      "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
      "<source file='/srv/debian.iso'/><target dev='sda'/><readonly/></disk>";
  const std::string empty = "<disk type='file' device='floppy'><target dev='fda'/></disk>";
  const DomainDisks found = disks_of_domain(domain_with(cdrom + empty + kFile)).value();
  CHECK(found.disks.size() == 1);
  REQUIRE(found.left_out.size() == 1);
  CHECK(found.left_out.front() == "cdrom sda has a medium, which is not copied");
}

TEST_CASE("what could be copied wrongly is refused, and says what and why") {
  using Catch::Contains;
  CHECK_THAT(refusal(replaced(kFile, "'raw'", "'qcow2'")), Contains("vda has the format 'qcow2'"));
  CHECK_THAT(refusal(replaced(kFile, " type='raw'", "")), Contains("vda has the format ''"));
  CHECK_THAT(refusal(replaced(kFile, "<driver name='qemu' type='raw' cache='none'/>", "")),
             Contains("format ''"));
  CHECK_THAT(refusal(replaced(kFile, "type='file'", "type='network'")),
             Contains("vda is of type 'network'"));
  CHECK_THAT(refusal(replaced(kFile, "type='file'", "type='volume'")), Contains("type 'volume'"));
  CHECK_THAT(refusal(replaced(kFile, "type='file' ", "")), Contains("type ''"));
  CHECK_THAT(refusal(replaced(kFile, "'none'", "'unsafe'")), Contains("cache mode unsafe"));
  CHECK_THAT(refusal(replaced(kFile, "file='/srv", "file='srv")), Contains("no source"));
  CHECK_THAT(refusal(replaced(kFile, " file=", " dev=")), Contains("no source"));
  CHECK_THAT(refusal(replaced(kFile, "dev='vda'", "x='vda'")), Contains("without a target"));
  CHECK_THAT(refusal(kFile + kFile), Contains("two disks 'vda'"));
  CHECK_THAT(refusal("<hostdev mode='subsystem' type='scsi'/>"), Contains("SCSI device"));
  // A qcow2 image is no less refused for being read-only, or for standing behind a good disk.
  CHECK_THAT(refusal(kBlock + replaced(kFile, "type='raw'", "type='vmdk'")), Contains("'vmdk'"));
  // What a name holds cannot steer a terminal.
  CHECK_THAT(refusal(replaced(replaced(kFile, "vda", "v&#10;a"), "raw", "x")),
             Contains("disk v\\x0aa"));
}

TEST_CASE("what is no domain's XML is an error, whatever it is") {
  const std::string bomb =
      "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>";
  std::string deep = domain_with("");
  for (int i = 0; i < 10'000; ++i) deep.insert(deep.find("</devices>"), "<a>");
  for (const std::string& bad :
       {std::string(), std::string("<"), std::string("<domain>"), std::string("<domain/>"),
        std::string("<devices/>"), std::string("\0<domain/>", 10), std::string(1000, '<'),
        std::string("<network><devices/></network>"), std::string("<domain><devices>"),
        "<domain><devices>" + kFile, bomb + domain_with(kFile), deep,
        domain_with("<disk type='\xff'/>"), domain_with("<disk/>"),
        domain_with(std::string(kMaxDomainXmlBytes, ' '))}) {
    INFO(bad.substr(0, 200));
    Result<DomainDisks> disks = disks_of_domain(bad);
    CHECK_FALSE(disks.ok());
  }
}

}  // namespace plumb
