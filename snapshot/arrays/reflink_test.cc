#include "snapshot/arrays/reflink.h"

#include <sys/stat.h>

#include <cstdio>

#include "blockdev/file_lock.h"
#include "tests/conformance/array_suite.h"
#include "tests/fakes/file_disks.h"
#include "tests/fakes/loop_file_system.h"

namespace plumb {
namespace {

using conformance::fill;
using conformance::good;
using conformance::holds;
using conformance::open_disk;
using conformance::Requests;
using conformance::snapshot_of;
using conformance::TestDisk;
using conformance::volume_of;

class ReflinkFixture final : public conformance::ArrayFixture {
 public:
  explicit ReflinkFixture(const std::string& folder)
      : folder_(folder), disks_(make_file_disks(folder)) {}
  std::unique_ptr<ArrayProvider> open() override {
    return good(open_reflink_array({"images", folder_}));
  }
  const std::vector<TestDisk>& disks() override { return disks_; }

 private:
  const std::string folder_;
  const std::vector<TestDisk> disks_;
};

bool skipped(const LoopFileSystem& files) {
  if (files.missing().empty()) return false;
  std::puts(("SKIPPED: " + files.missing()).c_str());
  return true;
}

struct stat facts_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status;
}

}  // namespace

TEST_CASE("reflinks on XFS are an array") {
  const LoopFileSystem files("mkfs.xfs -q");
  if (skipped(files)) return;
  ReflinkFixture fixture(files.path());
  run_array_suite(fixture);
}

TEST_CASE("reflinks on Btrfs are an array") {
  const LoopFileSystem files("mkfs.btrfs -q");
  if (skipped(files)) return;
  ReflinkFixture fixture(files.path());
  run_array_suite(fixture);
}

TEST_CASE("images without copy-on-write on Btrfs are cloned too") {
  const LoopFileSystem files("mkfs.btrfs -q");
  if (skipped(files)) return;
  REQUIRE(std::system(("chattr +C " + files.path()).c_str()) == 0);  // files made from now on
  ReflinkFixture fixture(files.path());
  const auto array = fixture.open();
  REQUIRE(std::system(("chattr -C " + files.path()).c_str()) == 0);
  const TestDisk& disk = fixture.disks()[0];
  fill(disk.path, 1);
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "nocow");
  fill(disk.path, 2);
  good(array->restore(snapshot.id, disk.path));
  CHECK(holds(disk.path, kFileDiskBytes, 1));
}

TEST_CASE("a file system without reflinks is refused with what to do") {
  const LoopFileSystem files("mkfs.xfs -q -m reflink=0,rmapbt=0");
  if (skipped(files)) return;
  ReflinkFixture fixture(files.path());
  const auto array = fixture.open();
  const auto health = array->health();
  REQUIRE_FALSE(health.ok());
  const auto prepared = array->prepare(Requests{{volume_of(*array, fixture.disks()[0]), "s"}});
  REQUIRE_FALSE(prepared.ok());
  CHECK_FALSE(std::filesystem::exists(files.path() + "/.plumb-snapshots/s.partial"));
  Result<> again = array->health();
  CHECK_THAT(again.error().message, Catch::Contains("has no reflinks; keep the images on XFS"));
}

TEST_CASE("a snapshot shares the blocks of its image, holes stay holes") {
  const LoopFileSystem files("mkfs.xfs -q");
  if (skipped(files)) return;
  ReflinkFixture fixture(files.path());
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[0];
  const UniqueFd image = open_disk(disk.path, O_RDWR);
  const AlignedMemory block = aligned_memory(kPageBytes);
  std::memset(block.get(), 7, kPageBytes);
  REQUIRE(::pwrite(image.get(), block.get(), kPageBytes, 1U << 20U) == ssize_t{kPageBytes});
  const uint64_t before = good(array->capacity()).free_bytes;
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "sparse");
  CHECK(facts_of(snapshot.id).st_blocks == facts_of(disk.path).st_blocks);
  CHECK(facts_of(snapshot.id).st_blocks * 512 < ssize_t{kFileDiskBytes});
  CHECK((facts_of(snapshot.id).st_mode & 0222U) == 0);
  fill(disk.path, 3);
  const ArraySnapshot full = snapshot_of(*array, disk, "full");
  CHECK(facts_of(full.id).st_blocks * 512 >= ssize_t{kFileDiskBytes});
  // The second costs no more than the first write to the image did.
  CHECK(before - good(array->capacity()).free_bytes < 2 * kFileDiskBytes);
}

TEST_CASE("what a VM has open is neither restored nor removed") {
  const LoopFileSystem files("mkfs.xfs -q");
  if (skipped(files)) return;
  ReflinkFixture fixture(files.path());
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[0];
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "s");
  const ArrayVolume clone = good(array->clone(snapshot.id, "c"));
  for (const std::string& path : {disk.path, clone.id}) {
    const UniqueFd machine = open_disk(path, O_RDWR);
    good(lock_file(machine.get(), "image", true));
    if (path == disk.path)
      CHECK(array->restore(snapshot.id, path).error().kind == ErrorKind::kLocked);
    if (path == clone.id) CHECK(array->remove(path).error().kind == ErrorKind::kLocked);
    CHECK(std::filesystem::exists(path));
  }
}

TEST_CASE("a restored image keeps its owner, mode and name, and what was cut short is repeated") {
  const LoopFileSystem files("mkfs.xfs -q");
  if (skipped(files)) return;
  ReflinkFixture fixture(files.path());
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[1];
  REQUIRE(::chown(disk.path.c_str(), 12, 34) == 0);
  REQUIRE(::chmod(disk.path.c_str(), 0640) == 0);
  fill(disk.path, 1);
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "s");
  fill(disk.path, 2);
  std::ofstream(snapshot.id + ".restoring") << "half";
  good(array->restore(snapshot.id, disk.path));
  CHECK(holds(disk.path, kFileDiskBytes, 1));
  CHECK(facts_of(disk.path).st_uid == 12);
  CHECK(facts_of(disk.path).st_gid == 34);
  CHECK((facts_of(disk.path).st_mode & 07777U) == 0640);
  CHECK_FALSE(std::filesystem::exists(snapshot.id + ".restoring"));
  CHECK(good(array->list_snapshots("")).size() == 1);
}

TEST_CASE("links do not lead out of the folder") {
  const LoopFileSystem files("mkfs.xfs -q");
  if (skipped(files)) return;
  const std::string folder = files.path() + "/images";
  std::filesystem::create_directory(folder);
  const std::string outside = files.path() + "/outside.img";
  std::ofstream(outside) << "secret";
  ReflinkFixture fixture(folder);
  const auto array = fixture.open();
  std::filesystem::create_symlink(outside, folder + "/link.img");
  std::filesystem::create_directory_symlink(files.path(), folder + "/up");
  // Named through a link, the image is what the link leads to.
  CHECK_FALSE(good(array->find({.image = folder + "/link.img"})));
  std::filesystem::create_symlink(folder + "/root.img", files.path() + "/alias.img");
  CHECK(good(array->find({.image = files.path() + "/alias.img"}))->id == folder + "/root.img");
  for (const char* id : {"/link.img", "/up/outside.img", "/../outside.img"}) {
    CAPTURE(id);
    CHECK_FALSE(array->prepare(Requests{{{.id = folder + id}, "s"}}).ok());
    CHECK_FALSE(array->map(folder + id).ok());
    CHECK_FALSE(array->remove(folder + id).ok());
  }
  CHECK_FALSE(array->map(outside).ok());
  CHECK_FALSE(array->remove(outside).ok());
  CHECK(std::filesystem::exists(outside));
  // A name that somebody made a link of is taken.
  good(array->remove(snapshot_of(*array, fixture.disks()[0], "s").id));
  std::filesystem::create_symlink(outside, folder + "/.plumb-snapshots/s.partial");
  CHECK_FALSE(array->prepare(Requests{{volume_of(*array, fixture.disks()[0]), "s"}}).ok());
}

TEST_CASE("a folder that is not there is refused") {
  Result<std::unique_ptr<ArrayProvider>> opened = open_reflink_array({"images", "/nowhere/at/all"});
  REQUIRE_FALSE(opened.ok());
  CHECK_THAT(opened.error().message, Catch::Contains("array images: folder /nowhere/at/all"));
}

}  // namespace plumb
