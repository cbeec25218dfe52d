#include "cli/definition.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";

// The message of the error that reading and completing `toml` gives, or "".
std::string refusal(const std::string& toml) {
  VmDefinition definition;
  Result<> read = read_toml(toml, "vm.toml", definition);
  if (read) read = complete(definition);
  if (!read) CHECK(read.error().kind == ErrorKind::kUsage);
  return read ? "" : read.error().message;
}

}  // namespace

TEST_CASE("a definition file says what a VM consists of") {
  VmDefinition vm;
  REQUIRE(read_toml(R"(
    name = "db1"
    memory = "6G"
    vcpus = 2
    kernel = "/boot/vmlinuz"
    initrd = "/boot/initrd.img"
    cmdline = "root=/dev/vda console=ttyS0"
    huge-pages = true
    registered-memory = true
    vcpu-cpus = "2-3"
    io-thread-cpus = 1
    io-poll-us = 0
    [[disk]]
    id = "root"
    image = "root.img"
    [[disk]]
    id = "data"
    lun = "wwn-0x60014051234abcd5000000000000000a"
    serial = "DATA-1"
    cache = "writeback"
    engine = "libaio"
    read-only = true
    discard = false
    on-error = "report"
    iops = 500
    bandwidth = "100M"
    burst-seconds = 30
    [[net]]
    tap = "tap0"
    mac = "52:54:00:12:34:56"
  )",
                    "db1.toml", vm)
              .ok());
  REQUIRE(complete(vm).ok());
  CHECK(vm.name == "db1");
  CHECK(vm.memory_bytes == 6ULL << 30U);
  CHECK(vm.vcpus == 2);
  CHECK(vm.huge_pages);
  CHECK(vm.registered_memory);
  CHECK(vm.vcpu_cpus == std::vector{2, 3});
  CHECK(vm.io_thread_cpus == std::vector{1});
  CHECK(vm.io_poll_us == 0);
  REQUIRE(vm.disks.size() == 2);
  CHECK(vm.disks[0].image == "root.img");
  CHECK(vm.disks[0].serial == "root");
  CHECK(vm.disks[0].cache == "writethrough");
  CHECK(vm.disks[0].discard);
  CHECK(vm.disks[1].lun == kWwn);
  CHECK(vm.disks[1].serial == "DATA-1");
  CHECK(vm.disks[1].cache == "writeback");
  CHECK(vm.disks[1].engine == "libaio");
  CHECK(vm.disks[1].read_only);
  CHECK_FALSE(vm.disks[1].discard);
  CHECK(vm.disks[1].on_error == "report");
  CHECK(vm.disks[1].iops == 500);
  CHECK(vm.disks[1].bandwidth_bytes == 100U << 20U);
  CHECK(vm.disks[1].burst_seconds == 30);
  REQUIRE(vm.nets.size() == 1);
  CHECK(vm.nets[0].tap == "tap0");
}

TEST_CASE("flags say the same as a file") {
  VmDefinition vm;
  REQUIRE(set_key(vm, "name", "db1").ok());
  REQUIRE(set_key(vm, "kernel", "vmlinuz").ok());
  REQUIRE(set_key(vm, "memory", "1G").ok());
  vm.disks.push_back(
      parse_disk_flag("root.img,id=root,read-only,cache=writeback", DiskFlag::kImage).value());
  vm.disks.push_back(
      parse_disk_flag(std::string(kWwn) + ",engine=io_uring", DiskFlag::kLun).value());
  vm.nets.push_back(parse_net_flag("tap=tap0").value());
  REQUIRE(complete(vm).ok());
  CHECK(vm.disks[0].image == "root.img");
  CHECK(vm.disks[0].read_only);
  CHECK(vm.disks[1].id == "disk1");
  CHECK(vm.disks[1].lun == kWwn);
  CHECK(vm.nets[0].mac.starts_with("52:54:00:"));
}

TEST_CASE(
    "an error pauses the VM of a LUN, and is reported to the guest of an image, unless said") {
  VmDefinition vm;
  REQUIRE(set_key(vm, "name", "db1").ok());
  REQUIRE(set_key(vm, "kernel", "vmlinuz").ok());
  vm.disks.push_back(parse_disk_flag("root.img", DiskFlag::kImage).value());
  vm.disks.push_back(parse_disk_flag("data.img,on-error=pause", DiskFlag::kImage).value());
  vm.disks.push_back(parse_disk_flag(kWwn, DiskFlag::kLun).value());
  vm.disks.push_back(parse_disk_flag("data.rdm,id=data", DiskFlag::kRdm).value());
  REQUIRE(complete(vm).ok());
  CHECK(vm.disks[0].on_error == "report");
  CHECK(vm.disks[1].on_error == "pause");
  CHECK(vm.disks[2].on_error == "pause");
  CHECK(vm.disks[3].rdm == "data.rdm");
  CHECK(vm.disks[3].on_error == "pause");
}

TEST_CASE("a VM's UUID and generation ID come from its name, unless they are given") {
  const auto identity = [](std::string_view toml) {
    VmDefinition vm;
    REQUIRE(read_toml(toml, "vm.toml", vm).ok());
    REQUIRE(complete(vm).ok());
    return std::pair(vm.uuid, vm.generation_id);
  };
  const auto derived = identity("name = \"db1\"\nkernel = \"k\"");
  // As docs/vm-definition.md has uuidgen make them: guests depend on their staying so.
  CHECK(derived.first == "b4a21963-7b4a-5ac4-a7fc-00b469853ea2");
  CHECK(derived.second == "da608008-a4c9-5ce3-bb66-7604beee7f19");
  CHECK(derived == identity("name = \"db1\"\nkernel = \"other\"\nmemory = \"1G\""));
  CHECK(derived.first != identity("name = \"db2\"\nkernel = \"k\"").first);

  const std::string given = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
  const auto with_uuid =
      identity("name = \"db1\"\nkernel = \"k\"\nuuid = \"3F2504E0-4F89-41d3-9a0c-0305e82c3301\"");
  CHECK(with_uuid.first == given);
  CHECK(with_uuid.second != derived.second);
  const auto with_generation =
      identity("name = \"db1\"\nkernel = \"k\"\ngeneration-id = \"" + given + "\"");
  CHECK(with_generation == std::pair(derived.first, given));
}

TEST_CASE("a UUID that stands for none is refused, as is what is no UUID") {
  CHECK_THAT(refusal("uuid = \"db1\""), Catch::Contains("uuid: 'db1' is not a UUID"));
  CHECK_THAT(refusal("uuid = \"00000000-0000-0000-0000-000000000000\""),
             Catch::Contains("stands for no UUID"));
  CHECK_THAT(refusal("generation-id = \"ffffffff-ffff-ffff-ffff-ffffffffffff\""),
             Catch::Contains("stands for no UUID"));
}

TEST_CASE("a definition survives the way to the VM's process") {
  VmDefinition vm;
  REQUIRE(set_key(vm, "name", "db1").ok());
  vm.disks.push_back(parse_disk_flag("root.img,id=root,read-only", DiskFlag::kImage).value());
  const VmDefinition back = from_json(to_json(vm)).value();
  CHECK(to_json(back) == to_json(vm));
  CHECK_FALSE(from_json(nlohmann::json::parse("{}")).ok());
  CHECK_FALSE(from_json(nlohmann::json::parse("[1]")).ok());
}

TEST_CASE("an unknown key is answered with the nearest one") {
  CHECK_THAT(refusal("memroy = \"1G\""),
             Catch::Contains("vm.toml: line 1: unknown key 'memroy'; did you mean 'memory'?"));
  CHECK_THAT(refusal("[[dsik]]\nimage = \"a\""), Catch::Contains("did you mean 'disk'?"));
  CHECK_THAT(refusal("[[disk]]\nimgae = \"a\""), Catch::Contains("did you mean 'image'?"));
  CHECK_THAT(refusal("[[net]]\nmca = \"a\""), Catch::Contains("did you mean 'mac'?"));
}

TEST_CASE("values out of range or of the wrong kind are refused") {
  const auto [toml, reason] = GENERATE(table<const char*, const char*>({
      {"memory = \"1M\"", "out of range"},
      {"memory = \"2048G\"", "out of range"},
      {"memory = \"33M\"", "multiple of 2 MiB"},
      {"memory = \"lots\"", "'lots' is not a size"},
      {"memory = [1]", "takes a text"},
      {"memory = 1.5", "takes a text"},
      {"vcpus = 0", "from 1 to 64"},
      {"vcpus = 65", "from 1 to 64"},
      {"vcpus = -1", "from 1 to 64"},
      {"vcpus = \"two\"", "from 1 to 64"},
      {"name = \"../etc\"", "is not a name"},
      {"name = \"-x\"", "is not a name"},
      {"name = \"\"", "is not a name"},
      {"console = \"vga\"", "write serial or virtio"},
      {"on-reboot = \"ignore\"", "write restart or exit"},
      {"huge-pages = \"maybe\"", "neither true nor false"},
      {"[[disk]]\nlun = \"sda\"", "not the identity of a LUN"},
      {"[[disk]]\nimage = \"a\"\ncache = \"unsafe\"", "write writethrough or writeback"},
      {"[[disk]]\nimage = \"a\"\nengine = \"threads\"", "engine"},
      {"[[disk]]\nimage = \"a\"\nserial = \"123456789012345678901\"", "longer than the 20 bytes"},
      {"vcpu-cpus = \"1-\"", "is not a list of CPUs"},
      {"io-thread-cpus = -1", "is not a list of CPUs"},
      {"io-poll-us = 1001", "microseconds from 0 to 1000"},
      {"[[disk]]\nimage = \"a\"\non-error = \"ignore\"", "write report or pause"},
      {"[[disk]]\nimage = \"a\"\niops = 0", "requests a second from 1"},
      {"[[disk]]\nimage = \"a\"\nbandwidth = \"1K\"", "less than 64 KiB a second"},
      {"[[disk]]\nimage = \"a\"\nburst-seconds = 0", "seconds from 1 to 3600"},
      {"disk = \"a\"", "write disk as [[disk]]"},
      {"[disk]\nimage = \"a\"", "write disk as [[disk]]"},
      {"[[net]]\nmac = \"01:00:5e:00:00:01\"", "is a group address"},
      {"[[net]]\nmac = \"52:54:00\"", "is not of the form"},
      {"name = ", "vm.toml: line 1"},
      {"name = \"a\"\nname = \"b\"", "vm.toml: line 2"},
      {"\x01\x02", "vm.toml: line 1"},
      {"[#", "vm.toml is not TOML"},
      {"\xc3\xbc = 1", "vm.toml: line 1"},
      {"name = \xe3\x81\x82", "vm.toml: line 1"},
      {"name = \"\xff\"", "vm.toml: line 1"},
  }));
  CAPTURE(toml);
  CHECK_THAT(refusal(toml), Catch::Contains(reason));
}

TEST_CASE("text and comments may hold any character, and a byte-order mark may come first") {
  VmDefinition vm;
  REQUIRE(read_toml("\xef\xbb\xbf# \xc3\xbc\nkernel = \"/m\xc3\xbc\"\n", "vm.toml", vm).ok());
  CHECK(vm.kernel == "/m\xc3\xbc");
}

TEST_CASE("what belongs together must be there, once") {
  const std::string good = "name = \"a\"\nkernel = \"k\"\n";
  CHECK(refusal(good).empty());
  CHECK_THAT(refusal("kernel = \"k\""), Catch::Contains("has no name"));
  CHECK_THAT(refusal("name = \"a\""), Catch::Contains("has no kernel"));
  CHECK_THAT(refusal(good + "[[disk]]\nid = \"d\""),
             Catch::Contains("disk 'd' needs one of image, lun and rdm"));
  CHECK_THAT(refusal(good + "[[disk]]\nimage = \"i\"\nlun = \"" + kWwn + "\""),
             Catch::Contains("needs one of image, lun and rdm"));
  CHECK_THAT(refusal(good + "[[disk]]\nrdm = \"r\"\nlun = \"" + kWwn + "\""),
             Catch::Contains("needs one of image, lun and rdm"));
  CHECK_THAT(refusal(good + "[[disk]]\nrdm = \"r\"\nallow-weak-identity = true"),
             Catch::Contains("plumb rdm create --allow-weak-identity"));
  CHECK_THAT(
      refusal(good + "[[disk]]\nid = \"d\"\nimage = \"1\"\n[[disk]]\nid = \"d\"\nimage = \"2\""),
      Catch::Contains("two disks have the id 'd'"));
  const std::string lun = std::string("[[disk]]\nlun = \"") + kWwn + "\"\n";
  CHECK_THAT(refusal(good + lun + lun), Catch::Contains("a VM can have it once"));
  const std::string rdm = "[[disk]]\nrdm = \"data.rdm\"\n";
  CHECK(refusal(good + lun + rdm).empty());
  CHECK_THAT(refusal(good + rdm + rdm), Catch::Contains("two disks are the LUN data.rdm"));
  CHECK_THAT(refusal(good + "[[net]]\nmac = \"52:54:00:12:34:56\""),
             Catch::Contains("needs a tap"));
}

TEST_CASE("flags that cannot be are refused") {
  CHECK_FALSE(parse_disk_flag("root.img,colour=red", DiskFlag::kImage).ok());
  CHECK_FALSE(parse_disk_flag("root.img,cache", DiskFlag::kImage).ok());
  CHECK_FALSE(parse_disk_flag("sda", DiskFlag::kLun).ok());
  CHECK_FALSE(parse_disk_flag("", DiskFlag::kLun).ok());
  CHECK_FALSE(parse_net_flag("tap0").ok());
  CHECK_FALSE(parse_net_flag("tap=t,mac=zz").ok());
}

TEST_CASE("a definition is printed as it is read") {
  VmDefinition vm;
  REQUIRE(read_toml(R"(name = "db1"
memory = "1G"
huge-pages = true
vcpus = 3
kernel = "/srv/a b/vmlinuz"
cmdline = "root=/dev/vda x=\"quoted\" \\ back"
console = "virtio"
vcpu-cpus = "2-4"
io-poll-us = 0
[[disk]]
id = "root"
image = "/srv/root.img"
cache = "writeback"
discard = false
bandwidth = "100M"
[[disk]]
id = "data"
lun = "naa.60014051234abcd5000000000000000a"
bus = "scsi"
path-timeout = 30
iops = 500
burst-seconds = 4
[[net]]
tap = "tap0"
)",
                    "vm.toml", vm)
              .ok());
  REQUIRE(complete(vm).ok());
  VmDefinition again;
  REQUIRE(read_toml(print_toml(vm), "printed", again).ok());
  REQUIRE(complete(again).ok());
  CHECK(to_json(again) == to_json(vm));
  VmDefinition odd;
  odd.name = "n";
  odd.kernel = std::string("/k\x01\n\"\\\x7fü");
  VmDefinition read;
  REQUIRE(read_toml(print_toml(odd), "printed", read).ok());
  CHECK(read.kernel == odd.kernel);
}

}  // namespace plumb
