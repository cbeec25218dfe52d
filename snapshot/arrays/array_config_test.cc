#include "snapshot/arrays/array_config.h"

#include <catch2/catch.hpp>

namespace plumb {
namespace {

constexpr const char* kFolder = "/var/lib/plumb/arrays";

std::vector<ArrayDefinition> read(const std::string& text) {
  Result<std::vector<ArrayDefinition>> arrays = read_arrays(text, "plumb.toml", kFolder);
  INFO((arrays ? std::string() : arrays.error().message));
  REQUIRE(arrays.ok());
  return std::move(arrays).value();
}

std::string refusal(const std::string& text) {
  Result<std::vector<ArrayDefinition>> arrays = read_arrays(text, "plumb.toml", kFolder);
  if (arrays) return "";
  CHECK(arrays.error().kind == ErrorKind::kUsage);
  return arrays.error().message;
}

}  // namespace

TEST_CASE("plumb.toml says which arrays there are") {
  const auto arrays = read(R"(
    [defaults]
    memory = "1G"
    [[array]]
    name = "images"
    provider = "reflink"
    folder = "/srv/images"
    [[array]]
    name = "rack-2"
    provider = "command"
    program = "/usr/local/lib/rack-2"
    abilities = ["instant", "group"]
    timeout = 30
    take-timeout = 2
    settings = { user = "plumb", host = "rack-2" }
    [[array]]
    name = "thin"
    provider = "dm-thin"
    pool = "/dev/mapper/pool0"
    luns = { "wwn-0x60014051234abcd5000000000000000a" = "db1-data" }
    [[array]]
    name = "thin-2"
    provider = "dm-thin"
    pool = "pool1"
    state = "/srv/state"
    [[array]]
    name = "lvm"
    provider = "lvm-thin"
    pool = "vg0/pool"
    luns = { "naa.60014051234abcd5000000000000000b" = "db1-log" }
    [[array]]
    name = "mirror"
    provider = "xcopy"
    luns = ["naa.60014051234abcd5000000000000000c"]
    spares = ["wwn-0x60014051234abcd5000000000000000d"]
    [[array]]
    name = "netapp"
    provider = "ontap"
    address = "netapp.example:8443"
    ca-file = "/etc/plumb/netapp.pem"
    user = "plumb"
    password-file = "/etc/plumb/netapp.password"
    svm = "svm1"
    volumes = ["vol1", "vol2"]
    igroup = "host1"
    take-timeout = 5
    [[array]]
    name = "vsp"
    provider = "hitachi"
    address = "10.0.0.1"
    storage-id = "886000123456"
    user = "plumb"
    password-file = "/etc/plumb/vsp.password"
    snapshot-pool = 13
    volume-pool = 0
    host-groups = ["CL1-A,3", "CL2-A,0"]
    [[array]]
    name = "eql"
    provider = "equallogic"
    address = "10.0.0.9:2222"
    user = "plumb"
    key-file = "/etc/plumb/eql.key"
    group = "group-0"
    initiator = "iqn.1993-08.org.debian:01:host1"
    luns = { "naa.6090a018000000000000000000000001" = "db1" }
    [[array]]
    name = "ceph"
    provider = "rbd"
    pool = "vms"
    namespace = "plumb"
    conf = "/etc/ceph/ceph.conf"
    id = "plumb"
    keyring = "/etc/ceph/plumb.keyring"
    luns = { "naa.60014051234abcd5000000000000000f" = "db1 data" }
    copy-timeout = 60
  )");
  REQUIRE(arrays.size() == 10);
  const auto& rbd = std::get<RbdConfig>(arrays[9]);
  CHECK(rbd.pool == "vms");
  CHECK(rbd.pool_namespace == "plumb");
  CHECK(rbd.conf == "/etc/ceph/ceph.conf");
  CHECK(rbd.id == "plumb");
  CHECK(rbd.keyring == "/etc/ceph/plumb.keyring");
  CHECK(rbd.luns.at("naa.60014051234abcd5000000000000000f") == "db1 data");
  CHECK(rbd.copy_timeout_ms == 60'000);
  const auto& equallogic = std::get<EqualLogicConfig>(arrays[8]);
  CHECK(equallogic.port == 2222);
  CHECK(equallogic.pool == "default");
  CHECK(equallogic.luns.at("naa.6090a018000000000000000000000001") == "db1");
  const auto& hitachi = std::get<HitachiConfig>(arrays[7]);
  CHECK(hitachi.storage_id == "886000123456");
  CHECK(hitachi.snapshot_pool == 13U);
  CHECK_FALSE(hitachi.shadow_image);
  REQUIRE(hitachi.host_groups.size() == 2);
  CHECK(hitachi.host_groups[0].port == "CL1-A");
  CHECK(hitachi.host_groups[0].number == 3);
  CHECK(hitachi.state_path == "/var/lib/plumb/arrays/vsp.json");
  const auto& ontap = std::get<OntapConfig>(arrays[6]);
  CHECK(ontap.address == "netapp.example");
  CHECK(ontap.port == 8443);
  CHECK(ontap.ca_file == "/etc/plumb/netapp.pem");
  CHECK(ontap.password_file == "/etc/plumb/netapp.password");
  CHECK(ontap.volumes == std::vector<std::string>{"vol1", "vol2"});
  CHECK(ontap.take_timeout_ms == 5'000);
  const auto& mirror = std::get<XcopyConfig>(arrays[5]);
  CHECK(mirror.luns == std::vector<std::string>{"naa.60014051234abcd5000000000000000c"});
  CHECK(mirror.spares == std::vector<std::string>{"naa.60014051234abcd5000000000000000d"});
  CHECK(mirror.state_path == "/var/lib/plumb/arrays/mirror.json");
  CHECK(std::get<LvmThinConfig>(arrays[4]).volume_group == "vg0");
  CHECK(std::get<LvmThinConfig>(arrays[4]).pool == "pool");
  CHECK(std::get<LvmThinConfig>(arrays[4]).luns.size() == 1);
  CHECK(array_name(arrays[0]) == "images");
  CHECK(std::get<ReflinkConfig>(arrays[0]).folder == "/srv/images");
  const auto& command = std::get<CommandConfig>(arrays[1]);
  CHECK(command.name == "rack-2");
  CHECK(command.program == "/usr/local/lib/rack-2");
  CHECK(command.timeout_ms == 30'000);
  CHECK(command.take_timeout_ms == 2'000);
  CHECK(command.settings.at("host") == "rack-2");
  CHECK(command.abilities.group);
  CHECK(command.abilities.instant);
  CHECK_FALSE(command.abilities.provisions);
  CHECK_FALSE(command.abilities.writable_snapshots);
  const auto& thin = std::get<DmThinConfig>(arrays[2]);
  CHECK(thin.pool == "pool0");
  CHECK(thin.luns.at("naa.60014051234abcd5000000000000000a") == "db1-data");
  CHECK(thin.state_path == "/var/lib/plumb/arrays/thin.json");
  CHECK(std::get<DmThinConfig>(arrays[3]).pool == "pool1");
  CHECK(std::get<DmThinConfig>(arrays[3]).state_path == "/srv/state");
}

TEST_CASE("an address has a host, and may have a port") {
  const auto address = [](const std::string& text) {
    const auto arrays = read(
        "[[array]]\nname = \"n\"\nprovider = \"ontap\"\nuser = \"u\"\n"
        "password-file = \"/p\"\nsvm = \"s\"\nvolumes = [\"v\"]\nigroup = \"i\"\n"
        "address = \"" +
        text + "\"");
    const auto& ontap = std::get<OntapConfig>(arrays[0]);
    return ontap.address + " " + std::to_string(ontap.port);
  };
  CHECK(address("netapp") == "netapp 443");
  CHECK(address("10.0.0.1:8443") == "10.0.0.1 8443");
  CHECK(address("fd00::1") == "fd00::1 443");
  CHECK(address("[fd00::1]") == "fd00::1 443");
  CHECK(address("[fd00::1]:8443") == "fd00::1 8443");
}

TEST_CASE("a file without arrays has none") {
  CHECK(read("").empty());
  CHECK(read("[defaults]\nname = \"x\"").empty());
}

TEST_CASE("an array that cannot be is refused with its line and what is near") {
  const std::string reflink = "[[array]]\nname = \"a\"\nprovider = \"reflink\"\n";
  const std::string command = "[[array]]\nname = \"a\"\nprovider = \"command\"\nprogram = \"/p\"\n";
  const std::string thin = "[[array]]\nname = \"a\"\nprovider = \"dm-thin\"\n";
  const std::string lvm = "[[array]]\nname = \"a\"\nprovider = \"lvm-thin\"\n";
  const std::string xcopy = "[[array]]\nname = \"a\"\nprovider = \"xcopy\"\n";
  const std::string eql = "[[array]]\nname = \"a\"\nprovider = \"equallogic\"\n";
  const std::string hitachi = "[[array]]\nname = \"a\"\nprovider = \"hitachi\"\n";
  const std::string hitachi_must =
      "address = \"h\"\nuser = \"u\"\npassword-file = \"/p\"\nvolume-pool = 0\n"
      "host-groups = [\"CL1-A,3\"]\n";
  const std::string rbd = "[[array]]\nname = \"a\"\nprovider = \"rbd\"\n";
  const std::string ontap = "[[array]]\nname = \"a\"\nprovider = \"ontap\"\n";
  const auto [text, reason] = GENERATE_COPY(table<std::string, const char*>({
      {"[[array]]\nprovider = \"reflink\"", "plumb.toml: line 1: array: it has no name"},
      {"\n[[array]]\nname = \"A\"", "plumb.toml: line 2: array: 'A' is no name for an array"},
      {"[[array]]\nname = 1", "write a text"},
      {"[[array]]\nname = \"a\"", "it has no provider; write one of reflink, command, dm-thin"},
      {"[[array]]\nname = \"a\"\nprovider = \"dmthin\"",
       "unknown provider 'dmthin'; did you mean 'dm-thin'?"},
      {reflink, "the key 'folder' is missing"},
      {reflink + "foldr = \"/srv\"", "unknown key 'foldr'; did you mean 'folder'?"},
      {reflink + "folder = \"srv\"", "folder: 'srv' is no absolute path"},
      {reflink + "folder = \"\"", "folder: write a text"},
      {reflink + "folder = \"/a\\u0000b\"", "folder: it has a NUL in it"},
      {reflink + "folder = [\"/srv\"]", "folder: write a text"},
      {reflink + "folder = \"/srv\"\npool = \"p\"", "unknown key 'pool'"},
      {ontap, "the key 'address' is missing"},
      {eql + "luns = { \"naa.6090a018000000000000000000000001\" = \"a b\" }",
       "luns: 'a b' has other letters"},
      {eql + "group = \"g\\nlogout\"", "group: "},
      {rbd, "the key 'pool' is missing"},
      {rbd + "pool = \"a/b\"", "pool: 'a/b' is no name in Ceph"},
      {rbd + "pool = \"p\"\nid = \"a b\"", "id: 'a b' has other letters"},
      {rbd + "pool = \"p\"\nkeyring = \"k\"", "keyring: 'k' is no absolute path"},
      {rbd + "luns = { \"naa.60014051234abcd5000000000000000a\" = \"a@b\" }",
       "luns: 'a@b' is no name in Ceph"},
      {hitachi + "snapshot-pool = -1", "snapshot-pool: write a number from 0 to 1023"},
      {hitachi + "copy = \"mirror\"",
       "copy: unknown copy 'mirror'; write thin-image or shadow-image"},
      {hitachi + "keep-mirrors = 1", "keep-mirrors: write true or false"},
      {hitachi + hitachi_must, "the key 'snapshot-pool' is missing, where Thin Image keeps"},
      {hitachi + "host-groups = []", "host-groups: name one at least"},
      {hitachi + "host-groups = [\"CL1-A\"]", "host-groups: 'CL1-A' is no host group"},
      {hitachi + "host-groups = [\"CL1-A,x\"]", "host-groups: 'CL1-A,x' is no host group"},
      {hitachi + "host-groups = [\"../x,3\"]", "host-groups: '../x,3' is no host group"},
      {ontap + "address = \"https://x\"", "address: '//x' is no port"},
      {ontap + "address = \"x:0\"", "address: '0' is no port"},
      {ontap + "address = \"x:99999\"", "address: '99999' is no port"},
      {ontap + "address = \"x/y\"", "address: 'x/y' is no address; write HOST or HOST:PORT"},
      {ontap + "address = \":443\"", "address: '' is no address"},
      {ontap + "address = \"-oProxy\"", "address: '-oProxy' is no address"},
      {ontap + "password = \"x\"", "unknown key 'password'"},
      {ontap + "password-file = \"x\"", "password-file: 'x' is no absolute path"},
      {ontap + "svm = \"s*\"", "svm: 's*' has other letters"},
      {ontap + "volumes = []", "volumes: write a list of texts"},
      {ontap + "user = \"a:b\"", "user: 'a:b' is no user's name"},
      {command + "abilities = [\"grope\"]", "unknown ability 'grope'; did you mean 'group'?"},
      {command + "abilities = \"group\"", "abilities: write a list"},
      {command + "timeout = 0", "timeout: write seconds from 1 to 86400"},
      {command + "take-timeout = \"5\"", "take-timeout: write seconds"},
      {command + "settings = { a = 1 }", "settings: write a text"},
      {command + "settings = 1", "settings: write a table"},
      {thin + "pool = \"/dev/sda\"", "pool: '/dev/sda' is no device of device-mapper"},
      {thin + "pool = \"a b\"", "pool: 'a b' is no device of device-mapper"},
      {thin + "pool = \"p\"\nluns = { sda = \"x\" }", "luns: 'sda' is not the identity of a LUN"},
      {thin + "pool = \"p\"\nluns = { \"naa.60014051234abcd5000000000000000a\" = \"x\", "
              "\"0x60014051234abcd5000000000000000a\" = \"y\" }",
       "is there twice"},
      {reflink + "folder = \"/a\"\n" + reflink + "folder = \"/b\"",
       "plumb.toml: line 5: array: two arrays have the name 'a'"},
      {lvm, "the key 'pool' is missing"},
      {lvm + "pool = \"pool\"", "pool: 'pool' is no thin pool of LVM, such as vg0/pool"},
      {lvm + "pool = \"-vg/pool\"", "is no thin pool of LVM"},
      {lvm + "pool = \"vg/po ol\"", "is no thin pool of LVM"},
      {"[[array]]\nname = \"" + std::string(33, 'a') + "\"", "is no name for an array"},
      {xcopy, "the key 'luns' is missing"},
      {xcopy + "luns = [\"sda\"]", "luns: 'sda' is not the identity of a LUN"},
      {xcopy + "luns = [\"naa.60014051234abcd5000000000000000a\", "
               "\"0x60014051234abcd5000000000000000a\"]",
       "is there twice"},
      {xcopy + "luns = [\"naa.60014051234abcd5000000000000000a\"]\n"
               "spares = [\"0x60014051234abcd5000000000000000a\"]",
       "is to be copied, and a spare to be overwritten"},
      {"[array]\nname = \"a\"", "write an array as [[array]]"},
      {"array = 1", "write an array as [[array]]"},
      {"[[array]", "plumb.toml: line 1"},
  }));
  CAPTURE(text);
  CHECK_THAT(refusal(text), Catch::Contains(reason));
}

TEST_CASE("the room of snapshots that VMs keep has a limit, or none") {
  CHECK(read_overlay_limit("", "plumb.toml").value() == 0);
  CHECK(read_overlay_limit("[copy-before-write]", "plumb.toml").value() == 0);
  CHECK(read_overlay_limit("[copy-before-write]\nlimit = \"20G\"", "plumb.toml").value() ==
        uint64_t{20} << 30U);
  const auto [text, reason] = GENERATE(table<std::string, std::string>({
      {"copy-before-write = 7", "write it as a table, [copy-before-write]"},
      {"[[copy-before-write]]", "write it as a table, [copy-before-write]"},
      {"[copy-before-write]\nlimits = \"20G\"", "it has no key 'limits', but limit"},
      {"[copy-before-write]\nlimit = 20", "write the limit as a size"},
      {"[copy-before-write]\nlimit = \"much\"", "write the limit as a size"},
      {"[copy-before-write]\nlimit = \"0\"", "write the limit as a size"},
      {"[copy-before-write", "plumb.toml: line 1"},
  }));
  CAPTURE(text);
  Result<uint64_t> limit = read_overlay_limit(text, "plumb.toml");
  REQUIRE_FALSE(limit.ok());
  CHECK_THAT(limit.error().message, Catch::Contains(reason));
}

TEST_CASE("an array that cannot be opened is an error that names it") {
  const auto arrays =
      read("[[array]]\nname = \"a\"\nprovider = \"reflink\"\nfolder = \"/no/where\"");
  Result<std::vector<std::unique_ptr<ArrayProvider>>> opened = open_arrays(arrays);
  REQUIRE_FALSE(opened.ok());
  CHECK_THAT(opened.error().message, Catch::StartsWith("array a: "));
}

}  // namespace plumb
