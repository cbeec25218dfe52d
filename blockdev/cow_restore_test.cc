#include "blockdev/cow_restore.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "blockdev/cow_overlay.h"
#include "blockdev/cow_reader.h"
#include "tests/fakes/mem_cow_file.h"

namespace plumb {
namespace {

constexpr uint32_t kGrain = 4096;
constexpr uint64_t kGrains = 12;
constexpr uint64_t kBytes = kGrains * kGrain;

using Bytes = std::vector<std::byte>;
using Files = std::vector<std::unique_ptr<CowFile>>;

std::string uuid_of(size_t number) {
  return fmt::format("3f2504e0-4f89-41d3-9a0c-0305e82c33{:02x}", number);
}

// A disk with snapshots, as VMs and reverts leave them, and what each has to read as.
struct Rig {
  Bytes base = Bytes(kBytes, std::byte{1});
  std::vector<Bytes> overlays;
  std::vector<Bytes> wanted;

  CowHeader header(size_t number) const {
    return {.uuid = uuid_of(number), .disk = "disk", .base_bytes = kBytes, .grain_bytes = kGrain};
  }
  void take() {
    const size_t number = overlays.size();
    if (number > 0) {
      MemCowFile before(overlays.back());
      REQUIRE(leave_cow_overlay(before, CowCondition::kSealed).ok());
    }
    overlays.emplace_back(cow_file_bytes(header(number)));
    MemCowFile file(overlays.back());
    REQUIRE(format_cow_overlay(file, header(number), number == 0 ? "" : uuid_of(number - 1)).ok());
    wanted.push_back(base);
  }
  // As a VM would: what is there goes to the newest overlay first.
  void write(uint64_t grain, int content) {
    Bytes& newest = overlays.back();
    const size_t number = overlays.size() - 1;
    const std::byte bit = static_cast<std::byte>(1U << grain % 8);
    const auto at = static_cast<ptrdiff_t>(grain * kGrain);
    if ((newest[kCowTableAt + grain / 8] & bit) == std::byte{0}) {
      const auto to = static_cast<ptrdiff_t>(cow_data_at(header(number)));
      std::copy_n(base.begin() + at, kGrain, newest.begin() + to + at);
      newest[kCowTableAt + grain / 8] |= bit;
    }
    std::fill_n(base.begin() + at, kGrain, static_cast<std::byte>(content));
  }
  // From a snapshot to the newest; each may take `most` writes.
  Files files(size_t from, uint64_t most = UINT64_MAX) {
    Files all;
    for (size_t i = from; i < overlays.size(); ++i) {
      auto file = std::make_unique<MemCowFile>(overlays[i]);
      file->most_writes = most;
      all.push_back(std::move(file));
    }
    return all;
  }
  Bytes read(size_t number) {
    CowReader::Config config;
    config.base = std::make_unique<MemCowFile>(base);
    config.overlays = files(number);
    const auto reader = CowReader::open(std::move(config)).value();
    Bytes all(kBytes);
    REQUIRE(reader->read(0, all).ok());
    return all;
  }
  void check_snapshots() {
    for (size_t i = 0; i < overlays.size(); ++i) {
      INFO("snapshot " << i);
      CHECK((read(i) == wanted[i]));  // too long to be printed
    }
  }
};

}  // namespace

TEST_CASE("cow restore: the disk is as the snapshot was, and every snapshot stays what it is") {
  const size_t to = GENERATE(0U, 1U, 2U, 3U);
  CAPTURE(to);
  Rig rig;
  for (int i = 0; i < 4; ++i) {
    rig.take();
    rig.write(static_cast<uint64_t>(i), 100 + i);
    rig.write(7, 110 + i);
    rig.write(11, 120 + i);
  }
  rig.take();
  MemCowFile base(rig.base);
  const Files files = rig.files(to);
  REQUIRE(restore_cow_snapshot(base, files).ok());
  CHECK((rig.base == rig.wanted[to]));
  rig.check_snapshots();
  // And back again to what was there before.
  const Files present = rig.files(4);
  REQUIRE(restore_cow_snapshot(base, present).ok());
  CHECK((rig.base == rig.wanted[4]));
  rig.check_snapshots();
}

TEST_CASE("cow restore: cut short at any write, snapshots are right, and it goes on") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Rig rig;
    for (size_t snapshots = 1 + random() % 4; snapshots > 0; --snapshots) {
      rig.take();
      for (size_t writes = random() % 6; writes > 0; --writes) {
        rig.write(random() % kGrains, static_cast<int>(random() % 250));
      }
    }
    if (random() % 2 == 0) rig.take();
    const size_t to = random() % rig.overlays.size();
    bool done = false;
    for (uint64_t writes = 0; !done; ++writes) {
      CAPTURE(writes);
      const bool of_base = random() % 2 == 0;
      MemCowFile base(rig.base);
      if (of_base) base.most_writes = writes % 5;
      const Files files = rig.files(to, of_base ? UINT64_MAX : writes % 5);
      done = restore_cow_snapshot(base, files).ok();
      rig.check_snapshots();
      if (writes > 20) {
        MemCowFile whole(rig.base);
        REQUIRE(restore_cow_snapshot(whole, rig.files(to)).ok());
        done = true;
      }
    }
    CHECK((rig.base == rig.wanted[to]));
    rig.check_snapshots();
  }
}

TEST_CASE("cow restore: a disk that has grown keeps what it grew by") {
  Rig rig;
  rig.take();
  rig.write(11, 5);
  rig.base.resize(kBytes + kGrain, std::byte{9});
  MemCowFile base(rig.base);
  REQUIRE(restore_cow_snapshot(base, rig.files(0)).ok());
  CHECK(std::equal(rig.wanted[0].begin(), rig.wanted[0].end(), rig.base.begin()));
  CHECK(rig.base.back() == std::byte{9});
}

TEST_CASE("cow restore: what cannot be is refused before anything is written") {
  Rig rig;
  rig.take();
  rig.write(3, 7);
  rig.write(4, 7);
  rig.take();
  const Bytes before = rig.base;
  MemCowFile base(rig.base);
  SECTION("broken") {
    MemCowFile newest(rig.overlays.back());
    REQUIRE(break_cow_overlay(newest, "a test").ok());
    CHECK_THAT(restore_cow_snapshot(base, rig.files(0)).error().message,
               Catch::Contains("is broken: a test"));
  }
  SECTION("overlays that do not follow each other") {
    Files files = rig.files(0);
    files.insert(files.begin(), std::make_unique<MemCowFile>(rig.overlays.back()));
    CHECK_THAT(restore_cow_snapshot(base, files).error().message,
               Catch::Contains("does not follow"));
  }
  SECTION("more than the newest may keep") {
    CowHeader header = rig.header(1);
    header.limit_bytes = kGrain;
    MemCowFile newest(rig.overlays.back());
    REQUIRE(newest.write(kCowHeaderAt, print_cow_header(header)).ok());
    CHECK_THAT(restore_cow_snapshot(base, rig.files(0)).error().message,
               Catch::Contains("raise limit in [copy-before-write]"));
  }
  CHECK((rig.base == before));
}

}  // namespace plumb
