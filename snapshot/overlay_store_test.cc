#include "snapshot/overlay_store.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <numeric>
#include <optional>
#include <vector>

#include "base/file.h"
#include "blockdev/cow_keeper.h"
#include "blockdev/disk.h"
#include "blockdev/file_device.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/recording_engine.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

constexpr uint64_t kBytes = 16 * kCowGrainBytes;

// The disk of a VM, from its start to its end, or its death.
class Vm {
 public:
  Vm(const OverlayStore& store, const TestImage& image) {
    UniqueFd fd = image.open();
    base_ = image.open(O_RDONLY);
    const std::string path = image.path();
    UniqueFd overlay =
        store.open_for_vm(path, fd.get(), [this](const std::string& why) { lost.push_back(why); })
            .value();
    keeper_.emplace(CowKeeper::Config{
        .disk = path, .broken = [this](const std::string& why) { told.set_value(why); }});
    auto device = FileDevice::open({.fd = std::move(fd), .label = path}, *thread_).value();
    disk_.emplace(Disk::Config{.id = "data", .serial = ""},
                  keeper_->start(std::move(device), std::move(overlay), *thread_).value(),
                  *thread_);
  }
  ~Vm() {
    if (disk_) die();
  }

  void write(uint64_t grain, unsigned char content) {
    const AlignedBuffer data(4096);
    data.fill(content);
    REQUIRE(BlockClient(*disk_, *thread_).write(grain * kCowGrainBytes, data) == 0);
  }
  Result<> keep(UniqueFd overlay) {
    CowKeeper::OpenOverlay made =
        keeper_->examine(std::move(overlay), "a new one", kBytes, *thread_).value();
    return while_held(
        [&](CowKeeper::Done done) { keeper_->keep(*disk_, std::move(made), std::move(done)); });
  }
  Result<> let_go(const std::string& uuid) {
    return while_held(
        [&](CowKeeper::Done done) { keeper_->let_go(*disk_, uuid, std::move(done)); });
  }
  void end() {
    const CowBaseStamp base = stamp_cow_base(base_.get(), "image").value();
    REQUIRE(while_held([&](CowKeeper::Done done) {
              keeper_->end(*disk_, base, std::move(done));
            }).ok());
    die();
  }
  void die() {
    disk_.reset();
    keeper_.reset();
  }

  std::vector<std::string> lost;  // at its start
  std::promise<std::string> told;
  EngineLog log;

 private:
  template <typename Act>
  Result<> while_held(Act act) {
    std::promise<Result<>> done;
    thread_->run([&] {
      disk_->hold(INT64_MAX, [&](const Result<>&) {
        act([&](Result<> result) {
          disk_->release();
          done.set_value(std::move(result));
        });
      });
    });
    return done.get_future().get();
  }

  UniqueFd base_;
  std::unique_ptr<IoThread> thread_ =
      IoThread::start({.name = "io-test",
                       .decorate =
                           [this](std::unique_ptr<IoEngine> engine) {
                             return std::make_unique<RecordingEngine>(std::move(engine), log);
                           }})
          .value();
  std::optional<CowKeeper> keeper_;
  std::optional<Disk> disk_;
};

struct Rig {
  TestImage image{kBytes};
  TemporaryFolder folder;
  OverlayStore store{folder.path() + "/overlays"};

  // A snapshot, and then a write to the grain of its number.
  void take(Vm& vm, int number) {
    OverlayStore::Changes changes = store.change(image.path()).value();
    REQUIRE(vm.keep(changes.add(name(number), kBytes).value()).ok());
    vm.write(static_cast<uint64_t>(number), static_cast<unsigned char>(number + 100));
  }
  static std::string name(int number) { return "plumb-" + std::to_string(number); }
  // The first byte of each of the first `count` grains.
  std::vector<int> read(int number, size_t count) {
    const auto reader = store.read(image.path(), name(number), image.open(O_RDONLY)).value();
    std::vector<int> content;
    for (size_t grain = 0; grain < count; ++grain) {
      std::array<std::byte, 1> byte;
      REQUIRE(reader->read(grain * kCowGrainBytes, byte).ok());
      content.push_back(static_cast<int>(byte[0]));
    }
    return content;
  }
  // Snapshot N has the writes before it: 100 … 100 + N - 1, and nothing of those after it.
  void check_reads(int number, int count) {
    std::vector<int> wanted(static_cast<size_t>(count), 0);
    std::iota(wanted.begin(), wanted.begin() + number, 100);
    CHECK(read(number, wanted.size()) == wanted);
  }
  Result<> remove(int number, Vm* vm = nullptr) {
    return store.change(image.path()).value().remove(name(number), [&](const std::string& uuid) {
      return vm == nullptr ? Result<>(failed("nobody is there")) : vm->let_go(uuid);
    });
  }
  std::vector<std::string> files() {
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(store.folder())) {
      if (entry.path().filename().string().starts_with("plumb-")) {
        all.push_back(entry.path().filename().string());
      }
    }
    std::ranges::sort(all);
    return all;
  }
  std::string disk_folder() {
    return std::filesystem::path(store.chain(image.path()).value().front().path).parent_path();
  }
};

constexpr int kSnapshots = 4;

}  // namespace

TEST_CASE("overlay store: a disk without a folder has no snapshots") {
  Rig rig;
  CHECK(rig.store.chain("/srv/a.img").value().empty());
  CHECK_FALSE(rig.store.open_for_vm("/srv/a.img", -1, {}).value().valid());
  CHECK(rig.store.all().value().empty());
}

TEST_CASE(
    "overlay store: deleted in any order, with and without a VM, the others stay what they are") {
  std::array<int, kSnapshots> order{};
  std::iota(order.begin(), order.end(), 0);
  do {
    for (const char* vm_is : {"there", "dead", "ended"}) {
      CAPTURE(order, vm_is);
      Rig rig;
      std::optional<Vm> vm(std::in_place, rig.store, rig.image);
      for (int i = 0; i < kSnapshots; ++i) rig.take(*vm, i);
      if (*vm_is == 'd') vm->die();
      if (*vm_is == 'e') vm->end();
      std::vector<int> left(order.begin(), order.end());
      for (const int gone : order) {
        REQUIRE(rig.remove(gone, *vm_is == 't' ? &*vm : nullptr).ok());
        std::erase(left, gone);
        for (const int number : left) rig.check_reads(number, kSnapshots);
      }
      CHECK(rig.files().empty());
      if (*vm_is == 't') vm->write(9, 9);
    }
  } while (std::ranges::next_permutation(order).found);
}

TEST_CASE(
    "overlay store: the next VM goes on with the newest, whether the last one ended or died") {
  Rig rig;
  for (int i = 0; i < kSnapshots; ++i) {
    Vm vm(rig.store, rig.image);
    CHECK(vm.lost.empty());
    vm.write(15, static_cast<unsigned char>(i));
    rig.take(vm, i);
    if (i % 2 == 0) vm.end();
  }
  for (int i = 0; i < kSnapshots; ++i) rig.check_reads(i, kSnapshots);
}

TEST_CASE("overlay store: an overlay that its VM never got goes away, and takes nothing with it") {
  Rig rig;
  Vm vm(rig.store, rig.image);
  rig.take(vm, 0);
  REQUIRE(rig.store.change(rig.image.path()).value().add("plumb-9", kBytes).ok());
  rig.check_reads(0, 2);
  REQUIRE(rig.remove(9, &vm).ok());
  vm.write(1, 7);
  rig.check_reads(0, 2);
  CHECK(rig.files() == std::vector<std::string>{"plumb-0.cow"});
}

TEST_CASE("overlay store: a deletion that was cut short is ended by the next one") {
  Rig rig;
  {
    Vm vm(rig.store, rig.image);
    for (int i = 0; i < 3; ++i) rig.take(vm, i);
  }
  const auto chain = rig.store.chain(rig.image.path()).value();
  const int gone = GENERATE(1, 2);
  const auto& from = chain[static_cast<size_t>(gone)];
  const std::string deleted = std::filesystem::path(from.path).replace_extension(".deleted");
  std::filesystem::rename(from.path, deleted);
  const bool merged = GENERATE(true, false);
  if (merged) {
    const auto open = [](const std::string& path) {
      return CowFdFile::open(open_file("overlay", path, O_RDWR).value(), path).value();
    };
    const auto from_file = open(deleted);
    const auto into_file = open(chain[static_cast<size_t>(gone) - 1].path);
    REQUIRE(merge_cow_overlay(*from_file, *into_file).ok());
  }
  rig.check_reads(0, 3);
  {
    Vm vm(rig.store, rig.image);
    vm.write(5, 5);
    rig.check_reads(0, 3);
  }
  REQUIRE(rig.remove(7).ok());
  rig.check_reads(0, 3);
  CHECK(rig.files().size() == 2);
}

TEST_CASE("overlay store: a disk that was changed without a VM loses its snapshots, and says so") {
  Rig rig;
  {
    Vm vm(rig.store, rig.image);
    rig.take(vm, 0);
    vm.end();
  }
  std::ofstream(rig.image.path(), std::ios::in | std::ios::out) << "changed";
  CHECK_FALSE(rig.store.read(rig.image.path(), Rig::name(0), rig.image.open(O_RDONLY)).ok());
  Vm vm(rig.store, rig.image);
  REQUIRE(vm.lost.size() == 1);
  CHECK_THAT(vm.lost[0], Catch::Contains("was changed since the VM"));
  rig.take(vm, 1);
  std::vector<int> later = rig.read(1, 2);
  CHECK(later == std::vector<int>{'c', 0});
  CHECK_FALSE(rig.store.read(rig.image.path(), Rig::name(0), rig.image.open(O_RDONLY)).ok());
}

// With the present state kept first, as a revert does it.
TEST_CASE("overlay store: a disk at rest goes back to a snapshot, and every snapshot stays") {
  const int to = GENERATE(0, 2, 3);
  const bool ended = GENERATE(true, false);
  CAPTURE(to, ended);
  Rig rig;
  {
    Vm vm(rig.store, rig.image);
    for (int i = 0; i < kSnapshots; ++i) rig.take(vm, i);
    if (ended) vm.end();
  }
  const std::string path = rig.image.path();
  {
    OverlayStore::Changes changes = rig.store.change(path).value();
    UniqueFd overlay = changes.add(Rig::name(kSnapshots), kBytes).value();
    REQUIRE(rig.store.keep_at_rest(path, rig.image.open().get(), std::move(overlay)).ok());
  }
  for (int i = 0; i <= kSnapshots; ++i) rig.check_reads(i, kSnapshots);
  // The second time finds it done.
  for (int times = 0; times < 2; ++times) {
    REQUIRE(rig.store.restore(path, Rig::name(to), rig.image.open()).ok());
    for (int i = 0; i <= kSnapshots; ++i) rig.check_reads(i, kSnapshots);
  }
  // The next VM finds its disk as it was, and keeps snapshots on.
  Vm vm(rig.store, rig.image);
  CHECK(vm.lost.empty());
  vm.write(9, 42);
  OverlayStore::Changes changes = rig.store.change(path).value();
  REQUIRE(vm.keep(changes.add("plumb-9", kBytes).value()).ok());
  std::vector<int> wanted(10, 0);
  std::iota(wanted.begin(), wanted.begin() + to, 100);
  wanted[9] = 42;
  CHECK(rig.read(9, 10) == wanted);
  for (int i = 0; i <= kSnapshots; ++i) rig.check_reads(i, kSnapshots);
}

TEST_CASE("overlay store: a disk that was changed by others has no snapshot to go back to") {
  Rig rig;
  {
    Vm vm(rig.store, rig.image);
    rig.take(vm, 0);
    vm.end();
  }
  CHECK_THAT(rig.store.restore(rig.image.path(), "plumb-7", rig.image.open()).error().message,
             Catch::Contains("is not there"));
  std::ofstream(rig.image.path(), std::ios::in | std::ios::out) << "changed";
  CHECK_THAT(rig.store.restore(rig.image.path(), Rig::name(0), rig.image.open()).error().message,
             Catch::Contains("cannot be gone back to") && Catch::Contains("was changed since"));
}

TEST_CASE("overlay store: a name is used once, and a path that is too long is said") {
  Rig rig;
  OverlayStore::Changes changes = rig.store.change(rig.image.path()).value();
  REQUIRE(changes.add("plumb-1", kBytes).ok());
  CHECK_THAT(changes.add("plumb-1", kBytes).error().message, Catch::Contains("already"));
  const std::string path = "/srv/" + std::string(300, 'x');
  CHECK_THAT(rig.store.change(path).value().add("plumb-1", kBytes).error().message,
             Catch::Contains("too long"));
}

TEST_CASE("overlay store: what is no overlay is in nobody's way, two that are the newest are") {
  Rig rig;
  Vm vm(rig.store, rig.image);
  rig.take(vm, 0);
  const std::string folder = rig.disk_folder();
  std::ofstream(folder + "/plumb-8.cow") << "no overlay";
  std::ofstream(folder + "/plumb-9.deleted") << "no overlay";
  std::ofstream(folder + "/plumb-7.cow").close();
  std::filesystem::create_symlink("/nowhere", folder + "/plumb-6.cow.txt");
  rig.check_reads(0, 2);
  rig.take(vm, 1);
  REQUIRE(rig.remove(0, &vm).ok());
  rig.check_reads(1, 2);
  CHECK(rig.files() ==
        std::vector<std::string>{"plumb-1.cow", "plumb-6.cow.txt", "plumb-7.cow", "plumb-8.cow"});
  const CowHeader header{.uuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
                         .disk = rig.image.path(),
                         .base_bytes = kBytes};
  REQUIRE(create_cow_overlay(folder + "/plumb-5.cow", header, "").ok());
  CHECK_THAT(rig.store.chain(rig.image.path()).error().message,
             Catch::Contains("both say that they are the newest"));
}

TEST_CASE(
    "overlay store: an overlay that takes no write, not even the mark, is emptied before its guest "
    "goes on") {
  Rig rig;
  Vm vm(rig.store, rig.image);
  rig.take(vm, 0);
  // The grain's, then the mark's.
  vm.log.inject({.kind = IoOpKind::kWrite, .result = -EIO}, 2);
  vm.write(5, 5);
  CHECK_THAT(vm.told.get_future().get(),
             Catch::Contains("the snapshots of") && Catch::Contains("are given up"));
  CHECK(rig.store.chain(rig.image.path()).value().empty());
  CHECK_FALSE(rig.store.read(rig.image.path(), Rig::name(0), rig.image.open(O_RDONLY)).ok());
  vm.write(6, 6);
  rig.take(vm, 1);
  CHECK(rig.read(1, 7)[6] == 6);
  REQUIRE(rig.remove(0, &vm).ok());
  CHECK(rig.files() == std::vector<std::string>{"plumb-1.cow"});
}

TEST_CASE("overlay store: what is not a new overlay of the disk is not kept") {
  Rig rig;
  Vm vm(rig.store, rig.image);
  rig.take(vm, 0);
  CowKeeper keeper({.disk = rig.image.path()});
  const auto thread = IoThread::start({.name = "io-other"}).value();
  const auto refused = [&](const std::string& path, uint64_t bytes) {
    auto examined =
        keeper.examine(open_file("overlay", path, O_RDWR).value(), "one", bytes, *thread);
    REQUIRE_FALSE(examined.ok());
    return examined.error().message;
  };
  const std::string taken = rig.store.chain(rig.image.path()).value().front().path;
  CHECK_THAT(refused(taken, kBytes), Catch::Contains("is not a new one"));
  CHECK_THAT(refused(taken, kBytes * 2), Catch::Contains("is of a disk of"));
  CHECK_THAT(refused(rig.image.path(), kBytes), Catch::Contains("overlay one"));
  const CowHeader other{
      .uuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301", .disk = "/srv/b.img", .base_bytes = kBytes};
  REQUIRE(create_cow_overlay(rig.folder.path() + "/b.cow", other, "").ok());
  CHECK_THAT(refused(rig.folder.path() + "/b.cow", kBytes), Catch::Contains("is of /srv/b.img"));
}

}  // namespace plumb
