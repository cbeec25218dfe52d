#include "rdm/mapping_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "base/crc32c.h"
#include "base/file.h"
#include "tests/child_process.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

constexpr const char* kUuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";

Lun lun() {
  Lun lun{.id = LunId::parse(kWwn).value(), .transport = Lun::Transport::kScsi, .name = "sdb"};
  lun.size_bytes = 1U << 30U;
  lun.logical_block_size = 512;
  lun.vendor = "LIO-ORG";
  lun.model = "data disk";
  lun.serial = "serial";
  return lun;
}

// The lines of a good mapping, as the format's page shows them.
std::vector<std::string> lines() {
  return {"plumb-rdm 1",
          fmt::format("uuid = {}", kUuid),
          "mode = virtual",
          fmt::format("wwid = {}", kWwn),
          "serial = serial",
          "vendor = LIO-ORG",
          "model = data disk",
          "size-bytes = 1073741824",
          "logical-block-size = 512",
          "sharing = exclusive",
          "allow-weak-identity = false"};
}

std::string sealed(const std::string& before) {
  return before + fmt::format("crc32c = {:08x}\n", crc32c(before));
}

std::string sealed(const std::vector<std::string>& all) {
  std::string text;
  for (const std::string& line : all) text += line + "\n";
  return sealed(text);
}

// The good lines with line `index` replaced, and a right checksum.
std::string with_line(size_t index, const std::string& line) {
  std::vector<std::string> all = lines();
  all[index] = line;
  return sealed(all);
}

std::string refusal(const std::string& text) {
  Result<MappingFile> mapping = parse_mapping(text, "data.rdm");
  return mapping.ok() ? "" : mapping.error().message;
}

std::string message_of(Result<> result) { return result.ok() ? "" : result.error().message; }

std::string open_error(const std::string& path) {
  Result<OpenMapping> open = open_mapping(path);
  if (open.ok()) return "";
  return fmt::format("{}{}", open.error().kind == ErrorKind::kLocked ? "locked: " : "",
                     open.error().message);
}

}  // namespace

TEST_CASE("a mapping's text says which LUN it is") {
  const MappingFile mapping = parse_mapping(sealed(lines()), "data.rdm").value();
  CHECK(mapping.uuid == kUuid);
  CHECK(mapping.mode == MappingMode::kVirtual);
  CHECK(mapping.wwid.text() == kWwn);
  CHECK(mapping.serial == "serial");
  CHECK(mapping.vendor == "LIO-ORG");
  CHECK(mapping.model == "data disk");
  CHECK(mapping.size_bytes == 1073741824);
  CHECK(mapping.logical_block_size == 512);
  CHECK_FALSE(mapping.shared);
  CHECK_FALSE(mapping.allow_weak_identity);
  CHECK(print_mapping(mapping) == sealed(lines()));
}

TEST_CASE("each value a mapping may have is read back as it is printed") {
  const auto [index, line] = GENERATE(table<size_t, const char*>({
      {2, "mode = physical"},
      {3, "wwid = eui.0025385a71b00001"},
      {3, "wwid = t10.ATA     DISK  = 7"},
      {3, "wwid = uuid.3f2504e0-4f89-41d3-9a0c-0305e82c3301"},
      {4, "serial = a = b"},
      {7, "size-bytes = 512"},
      {7, "size-bytes = 18446744073709486080"},
      {8, "logical-block-size = 4096"},
      {8, "logical-block-size = 65536"},
      {9, "sharing = shared"},
      {10, "allow-weak-identity = true"},
  }));
  const std::string text = with_line(index, line);
  CAPTURE(line, refusal(text));
  Result<MappingFile> mapping = parse_mapping(text, "data.rdm");
  REQUIRE(mapping.ok());
  CHECK(print_mapping(mapping.value()) == text);
}

TEST_CASE("what a LUN did not tell is left out") {
  std::vector<std::string> all = lines();
  all.erase(all.begin() + 4, all.begin() + 7);
  const MappingFile mapping = parse_mapping(sealed(all), "data.rdm").value();
  CHECK(mapping.serial.empty());
  CHECK(print_mapping(mapping) == sealed(all));
}

TEST_CASE("a value that cannot be is refused, with its key and what it should be") {
  const auto [index, line, reason] = GENERATE(table<size_t, const char*, const char*>({
      {1, "uuid = 3f2504e0", "uuid '3f2504e0' is not a UUID"},
      {1, "uuid = 3F2504E0-4F89-41D3-9A0C-0305E82C3301", "is not a UUID"},
      {1, "uuid = 3f2504e0-4f89-41d3-9a0c_0305e82c3301", "is not a UUID"},
      {2, "mode = raw", "mode 'raw' is not virtual or physical"},
      {2, "mode = ", "mode '' is not virtual"},
      {3, "wwid = /dev/sdb", "wwid '/dev/sdb' is not the identity of a LUN"},
      {3, "wwid = naa.6001405", "is not the identity of a LUN"},
      {3, "wwid = \x1b[2J", "wwid '(unprintable)' is not the identity of a LUN"},
      {4, "serial = ", "serial '' is not a printable text"},
      {4, "serial =  x", "is not a printable text"},
      {4, "serial = x ", "is not a printable text"},
      {5, "vendor = \x1b[2J", "vendor '(unprintable)' is not a printable text"},
      {7, "size-bytes = ", "is not a number"},
      {7, "size-bytes = -512", "is not a number"},
      {7, "size-bytes = 1G", "is not a number"},
      {7, "size-bytes = 18446744073709551616", "is not a number"},
      {7, "size-bytes = 0", "size-bytes '0' is not a number of whole blocks"},
      {7, "size-bytes = 1000", "is not a number of whole blocks"},
      {8, "logical-block-size = 0", "is not a power of two from 512 to 65536"},
      {8, "logical-block-size = 520", "is not a power of two"},
      {8, "logical-block-size = 256", "is not a power of two"},
      {8, "logical-block-size = 131072", "is not a power of two"},
      {8, "logical-block-size = 4294967808", "is not a number"},
      {9, "sharing = all", "sharing 'all' is not exclusive or shared"},
      {10, "allow-weak-identity = yes", "'yes' is not true or false"},
  }));
  CAPTURE(line);
  const std::string message = refusal(with_line(index, line));
  CHECK_THAT(message, Catch::Contains(reason));
  CHECK_THAT(message, Catch::StartsWith("mapping data.rdm"));
  CHECK_THAT(message, Catch::Contains("make it again with `plumb rdm create`"));
}

TEST_CASE("a fact longer than any LUN tells is refused") {
  CHECK(refusal(with_line(6, "model = " + std::string(256, 'x'))).empty());
  CHECK_THAT(refusal(with_line(6, "model = " + std::string(257, 'x'))),
             Catch::Contains("is not a printable text"));
}

TEST_CASE("an identity that is not in its canonical form, or other spacing, is refused") {
  const auto [index, line] = GENERATE(table<size_t, const char*>({
      {3, "wwid = NAA.60014051234ABCD5000000000000000A"},
      {3, "wwid = wwn-0x60014051234abcd5000000000000000a"},
      {7, "size-bytes = 01073741824"},
      {8, "logical-block-size = 0512"},
  }));
  CAPTURE(line);
  CHECK_THAT(refusal(with_line(index, line)), Catch::Contains("not written as plumb writes it"));
}

TEST_CASE("keys in another order are refused") {
  std::vector<std::string> all = lines();
  std::swap(all[5], all[6]);
  CHECK_THAT(refusal(sealed(all)), Catch::Contains("not written as plumb writes it"));
}

TEST_CASE("unknown, repeated and missing keys are refused by name") {
  std::vector<std::string> all = lines();
  all.push_back("device = /dev/sdb");
  CHECK_THAT(refusal(sealed(all)),
             Catch::Contains("has the key 'device', which this plumb does not "
                             "know"));
  all = lines();
  all.push_back("mode = physical");
  CHECK_THAT(refusal(sealed(all)), Catch::Contains("has the key 'mode' twice"));
  for (const size_t index : {1, 2, 3, 7, 8, 9, 10}) {
    all = lines();
    const std::string key = all[index].substr(0, all[index].find(' '));
    all.erase(all.begin() + static_cast<ptrdiff_t>(index));
    CHECK_THAT(refusal(sealed(all)), Catch::Contains("lacks the key '" + key + "'"));
  }
}

TEST_CASE("a line that is no key and value is refused") {
  const char* line = GENERATE("", "mode", "mode=virtual", "# comment", "mode = virtual\r", " ");
  CAPTURE(line);
  CHECK_FALSE(refusal(with_line(2, line)).empty());
}

TEST_CASE("another file, another version and a damaged file each have their sentence") {
  const std::string good = sealed(lines());
  CHECK_THAT(refusal(""), Catch::Contains("data.rdm is not a mapping file"));
  CHECK_THAT(refusal("name = \"db1\"\n"), Catch::Contains("data.rdm is not a mapping file"));
  CHECK_THAT(refusal("# Disk DescriptorFile\n"), Catch::Contains("is not a mapping file"));
  CHECK_THAT(refusal(sealed(std::string("plumb-rdm 2\n"))),
             Catch::Contains("has the format version '2' and this plumb reads 1"));
  CHECK_THAT(refusal("plumb-rdm \x1b[2J\n"), Catch::Contains("format version '(unprintable)'"));
  std::string text = good;
  text[60] = '\0';
  CHECK_THAT(refusal(text), Catch::Contains("contains NUL bytes"));
  CHECK_THAT(refusal(std::string(300, '\0')), Catch::Contains("contains NUL bytes"));
  CHECK_THAT(refusal(std::string(kMaxMappingBytes + 1, 'x')),
             Catch::Contains("longer than the 4096 bytes"));
}

TEST_CASE("a mapping cut anywhere is refused") {
  const std::string good = sealed(lines());
  for (size_t length = 0; length < good.size(); ++length) {
    CAPTURE(length);
    REQUIRE_FALSE(refusal(good.substr(0, length)).empty());
  }
  CHECK_THAT(refusal(good.substr(0, good.size() - 1)),
             Catch::Contains("does not end with its checksum"));
  CHECK_THAT(refusal(good + "\n"), Catch::Contains("does not end with its checksum"));
  CHECK_THAT(refusal("plumb-rdm 1"), Catch::Contains("does not end with its checksum"));
}

TEST_CASE("a change of any one bit is refused") {
  const std::string good = sealed(lines());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string text = good;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1U << (bit % 8)));
    CAPTURE(bit);
    REQUIRE_FALSE(refusal(text).empty());
  }
  std::string edited = good;
  edited.replace(edited.find("virtual"), 7, "nothing");
  CHECK_THAT(refusal(edited), Catch::Contains("was changed or damaged: its checksum is wrong"));
}

TEST_CASE("a new mapping records the LUN as it is, and no name or path of it") {
  const MappingFile mapping = make_mapping(lun(), {.shared = true}).value();
  const std::string text = print_mapping(mapping);
  CHECK(parse_mapping(text, "data.rdm").ok());
  CHECK(mapping.wwid.text() == kWwn);
  CHECK(mapping.size_bytes == 1U << 30U);
  CHECK(mapping.shared);
  CHECK_THAT(text, !Catch::Contains("sdb"));
  CHECK(make_mapping(lun(), {}).value().uuid != mapping.uuid);
}

TEST_CASE("what a LUN tells about itself cannot break its mapping") {
  Lun strange = lun();
  strange.model = "  a\nmode = physical\x7f\xff ";
  strange.vendor = "   ";
  strange.serial = std::string(1000, 's');
  const MappingFile mapping = make_mapping(strange, {}).value();
  CHECK(mapping.model == "a?mode = physical??");
  CHECK(mapping.vendor.empty());
  CHECK(refusal(print_mapping(mapping)).empty());
  CHECK(differences(mapping, strange).empty());
}

TEST_CASE("a LUN without a medium, or with a weak identity, is not mapped unless allowed") {
  Lun empty = lun();
  empty.size_bytes = 0;
  CHECK_THAT(make_mapping(empty, {}).error().message, Catch::Contains("has no medium"));
  Lun weak = lun();
  weak.id = LunId::parse("t10.ATA     DISK").value();
  CHECK_THAT(make_mapping(weak, {}).error().message, Catch::Contains("--allow-weak-identity"));
  CHECK(make_mapping(weak, {.allow_weak_identity = true}).value().allow_weak_identity);
}

TEST_CASE("an NVMe namespace is mapped in virtual mode only") {
  Lun nvme = lun();
  nvme.transport = Lun::Transport::kNvme;
  CHECK(make_mapping(nvme, {}).ok());
  CHECK_THAT(make_mapping(nvme, {.mode = MappingMode::kPhysical}).error().message,
             Catch::Contains("takes no SCSI commands; map it in virtual mode"));
}

TEST_CASE("a LUN that is not what was mapped is told apart, each difference by itself") {
  const MappingFile mapping = make_mapping(lun(), {}).value();
  CHECK(differences(mapping, lun()).empty());

  Lun other = lun();
  other.size_bytes *= 2;
  other.vendor = "another";  // firmware may change how a LUN calls itself
  CHECK(differences(mapping, other).empty());
  other.serial.clear();
  CHECK(differences(mapping, other).empty());

  other = lun();
  other.size_bytes -= 512;
  other.logical_block_size = 4096;
  other.serial = "other";
  const std::vector<std::string> found = differences(mapping, other);
  REQUIRE(found.size() == 3);
  CHECK_THAT(found[0], Catch::Contains("has shrunk from 1073741824 to 1073741312 bytes"));
  CHECK_THAT(found[1], Catch::Contains("has blocks of 4096 bytes, and had 512"));
  CHECK_THAT(found[2],
             Catch::Contains("has the serial number other, and the one that was mapped had "
                             "serial"));
}

TEST_CASE("a mapping is written for its owner only, and not over anything that exists") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/data.rdm";
  const MappingFile mapping = make_mapping(lun(), {}).value();
  REQUIRE(write_mapping(path, mapping).ok());
  CHECK(read_file(path).value() == print_mapping(mapping));
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK_THAT(message_of(write_mapping(path, make_mapping(lun(), {}).value())),
             Catch::Contains(path + " exists already and is left as it is"));
  CHECK(read_mapping(path).value().uuid == mapping.uuid);
}

TEST_CASE("a mapping is replaced when asked, unless it is in use or no mapping") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/data.rdm";
  const MappingFile first = make_mapping(lun(), {}).value();
  const MappingFile second = make_mapping(lun(), {.shared = true}).value();
  REQUIRE(write_mapping(path, first, true).ok());
  {
    const OpenMapping used = open_mapping(path).value();
    Result<> replaced = write_mapping(path, second, true);
    REQUIRE_FALSE(replaced.ok());
    CHECK(replaced.error().kind == ErrorKind::kLocked);
  }
  REQUIRE(write_mapping(path, second, true).ok());
  CHECK(read_mapping(path).value().uuid == second.uuid);
  {
    const OpenMapping used = open_mapping(path).value();
    CHECK_FALSE(write_mapping(path, first, true).ok());
  }
  // Damaged, it is a mapping still.
  REQUIRE(replace_file(path, "plumb-rdm 1\nmode").ok());
  CHECK(write_mapping(path, first, true).ok());

  const std::string image = folder.path() + "/disk.img";
  REQUIRE(replace_file(image, "data").ok());
  CHECK_THAT(message_of(write_mapping(image, first, true)),
             Catch::Contains("is not a mapping file"));
  CHECK(read_file(image).value() == "data");
}

TEST_CASE("a LUN with blocks that a mapping cannot hold leaves no file") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/data.rdm";
  Lun strange = lun();
  strange.logical_block_size = 0;
  CHECK_FALSE(write_mapping(path, make_mapping(strange, {}).value()).ok());
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("an exclusive mapping is for one at a time, who is named") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/data.rdm";
  REQUIRE(write_mapping(path, make_mapping(lun(), {}).value()).ok());
  {
    OpenMapping mine = open_mapping(path).value();
    CHECK_THAT(open_error(path), Catch::StartsWith("locked: mapping " + path +
                                                   " is already used by "
                                                   "another disk"));
    const std::string other = in_child([&] {
      mine.lock.reset();  // or the child would be a holder, too
      return open_error(path);
    });
    CHECK_THAT(other, Catch::StartsWith("locked: mapping " + path + " is in use by ") &&
                          Catch::Contains(fmt::format("(pid {})", ::getpid())));
    CHECK(read_mapping(path).ok());  // looking is always possible
  }
  CHECK(open_mapping(path).ok());
}

TEST_CASE("a shared mapping is for several") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/data.rdm";
  REQUIRE(write_mapping(path, make_mapping(lun(), {.shared = true}).value()).ok());
  const OpenMapping mine = open_mapping(path).value();
  CHECK(in_child([&] { return open_error(path); }).empty());
}

TEST_CASE("a mapping that its user may not write can be shared, but not had alone") {
  const TemporaryFolder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  const auto opened_by_another = [&](bool shared) {
    const std::string path = folder.path() + (shared ? "/shared.rdm" : "/data.rdm");
    REQUIRE(write_mapping(path, make_mapping(lun(), {.shared = shared}).value()).ok());
    REQUIRE(::chmod(path.c_str(), 0444) == 0);
    return in_child([&] {
      // Root may write all.
      if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) return std::string("no user");
      return open_error(path);
    });
  };
  CHECK(opened_by_another(true).empty());
  CHECK_THAT(opened_by_another(false),
             Catch::Contains("cannot be locked for this VM alone, which takes write permission: "
                             "Permission denied"));
}

TEST_CASE("what is no mapping file is not opened") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/data.rdm";
  CHECK_THAT(open_error(path),
             Catch::Contains("mapping " + path + " cannot be opened: No such file"));
  CHECK_THAT(open_error(folder.path()), Catch::Contains("is not a regular file"));
  CHECK_THAT(open_error("/dev/null"), Catch::Contains("/dev/null is not a regular file"));
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK_THAT(open_error(path), Catch::Contains("is not a regular file"));
  const std::string image = folder.path() + "/disk.img";
  REQUIRE(replace_file(image, std::string(1U << 20U, '\0')).ok());
  CHECK_THAT(open_error(image), Catch::Contains("longer than the 4096 bytes"));
}

}  // namespace plumb
