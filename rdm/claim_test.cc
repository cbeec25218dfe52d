#include "rdm/claim.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <optional>

#include "base/file.h"
#include "rdm/fake_sysfs.h"
#include "tests/child_process.h"

namespace plumb {
namespace {

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";

std::string refusal(const FakeSysfs& sysfs, const char* wwn = kWwn, ClaimOptions options = {}) {
  Result<ClaimedLun> claimed =
      claim_lun(LunResolver(sysfs.roots()), LunId::parse(wwn).value(), options);
  return claimed.ok() ? "" : claimed.error().message;
}

// A loop device of 1 GiB that the made-up sysfs calls the LUN sdb: claims open it, and the kernel
// answers.
class LoopLun {
 public:
  // None, and the test is skipped, where loop devices cannot be made.
  static std::unique_ptr<LoopLun> make() {
    auto lun = std::unique_ptr<LoopLun>(new LoopLun);
    if (lun->device_ && lun->describe()) return lun;
    WARN("SKIPPED: loop devices need /dev/loop-control and root");
    return nullptr;
  }
  ~LoopLun() {
    if (device_) ::ioctl(device_.get(), LOOP_CLR_FD, 0);
  }
  LoopLun(const LoopLun&) = delete;
  LoopLun& operator=(const LoopLun&) = delete;

  FakeSysfs sysfs;

  Result<ClaimedLun> claim(const ClaimOptions& options) const {
    SystemRoots roots = sysfs.roots();
    roots.proc = "/proc";  // who has the device open is true
    return claim_lun(LunResolver(roots), LunId::parse(kWwn).value(), options);
  }

  // "", or how another process is refused; `mine` is what that process would inherit.
  std::string claim_elsewhere(const ClaimOptions& options, std::optional<ClaimedLun>& mine) {
    return in_child([&] {
      mine.reset();
      device_.reset();
      Result<ClaimedLun> claimed = claim(options);
      if (claimed.ok()) return std::string();
      return (claimed.error().kind == ErrorKind::kLocked ? "locked: " : "") +
             claimed.error().message;
    });
  }

  std::string number;  // "7:3"

 private:
  LoopLun() {
    const std::string image = folder_.path() + "/lun";
    const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const UniqueFd file(::open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!control || !file || ::ftruncate(file.get(), 1U << 30U) != 0) return;
    // Another process may take the free one first.
    for (int attempt = 0; attempt < 10 && !device_; ++attempt) {
      const int index = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      path_ = "/dev/loop" + std::to_string(index);
      UniqueFd device(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (device && ::ioctl(device.get(), LOOP_SET_FD, file.get()) == 0) {
        device_ = std::move(device);
      }
    }
  }

  bool describe() {
    struct stat status {};
    if (::fstat(device_.get(), &status) != 0) return false;
    number = fmt::format("{}:{}", major(status.st_rdev), minor(status.st_rdev));
    sysfs.add_scsi("sdb", number, kWwn);
    sysfs.write("sys/dev/block/" + number + "/device/wwid", std::string(kWwn) + "\n");
    return ::symlink(path_.c_str(), (sysfs.roots().dev + "/sdb").c_str()) == 0;
  }

  TemporaryFolder folder_;
  std::string path_;
  UniqueFd device_;
};

std::string this_process() { return fmt::format("(pid {})", ::getpid()); }

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

TEST_CASE("a claimed LUN is refused to other processes, the holder named, until it is let go") {
  const auto lun = LoopLun::make();
  if (!lun) return;
  const ClaimOptions other =
      GENERATE(ClaimOptions{}, ClaimOptions{.read_only = true}, ClaimOptions{.shared = true});
  std::optional<ClaimedLun> mine = lun->claim({}).value();
  CHECK((::fcntl(mine->fd.get(), F_GETFL) & (O_ACCMODE | O_DIRECT)) == (O_RDWR | O_DIRECT));
  CHECK_THAT(lun->claim_elsewhere(other, mine),
             Catch::StartsWith("locked: ") && Catch::Contains(this_process()));
  mine.reset();
  CHECK(lun->claim_elsewhere(other, mine).empty());
}

TEST_CASE("a LUN is shared among shared claims, and refused to an exclusive one") {
  const auto lun = LoopLun::make();
  if (!lun) return;
  const bool read_only = GENERATE(false, true);
  std::optional<ClaimedLun> mine = lun->claim({.read_only = read_only, .shared = true}).value();
  CHECK(lun->claim_elsewhere({.shared = true}, mine).empty());
  CHECK(lun->claim_elsewhere({.read_only = true, .shared = true}, mine).empty());
  for (const bool other_read_only : {false, true}) {
    CHECK_THAT(lun->claim_elsewhere({.read_only = other_read_only}, mine),
               Catch::StartsWith("locked: LUN " + std::string(kWwn)) &&
                   Catch::Contains("is in use by") && Catch::Contains(this_process()));
  }
  mine.reset();
  CHECK(lun->claim_elsewhere({}, mine).empty());
}

TEST_CASE("a shared claim is refused what an exclusive one is") {
  const auto lun = LoopLun::make();
  if (!lun) return;
  lun->sysfs.write("sys/block/sdb/holders/dm-3/dm/uuid", "LVM-xyz\n");
  CHECK_THAT(lun->claim({.shared = true}).error().message, Catch::Contains("held by dm-3"));
}

TEST_CASE("a LUN whose open device is not what sysfs said is refused") {
  const auto lun = LoopLun::make();
  if (!lun) return;
  const bool shared = GENERATE(false, true);
  const auto refused_with = [&](const std::string& file, const std::string& content) {
    lun->sysfs.write(file, content);
    return lun->claim({.shared = shared}).error().message;
  };
  CHECK_THAT(refused_with("sys/block/sdb/queue/logical_block_size", "4096\n"),
             Catch::Contains("changed its blocks from 4096 to 512"));
  CHECK_THAT(refused_with("sys/block/sdb/size", "4096\n"),
             Catch::Contains("changed its size from 2097152 to 1073741824"));
  CHECK_THAT(refused_with("sys/dev/block/" + lun->number + "/device/wwid",
                          "naa.60014051234abcd5000000000000000b\n"),
             Catch::Contains("it is naa.60014051234abcd5000000000000000b and LUN naa."));
  lun->sysfs.write("sys/dev/block/" + lun->number + "/device/wwid", std::string(kWwn) + "\n");
  CHECK_THAT(refused_with("sys/block/sdb/dev", "8:16\n"),
             Catch::Contains("changed while it was opened"));
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
