#include "blockdev/cow_overlay.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "base/file.h"
#include "blockdev/cow_reader.h"
#include "blockdev/file_lock.h"
#include "tests/fakes/mem_cow_file.h"
#include "tests/fakes/test_image.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

constexpr uint32_t kGrain = 4096;
constexpr uint64_t kGrains = 12;
constexpr uint64_t kBaseBytes = kGrains * kGrain - 512;  // the last is not whole

std::string uuid_of(int number) {
  return fmt::format("3f2504e0-4f89-41d3-9a0c-0305e82c33{:02x}", number);
}

CowHeader header_of(int number) {
  return {.uuid = uuid_of(number), .disk = "disk", .base_bytes = kBaseBytes, .grain_bytes = kGrain};
}

// Overlays in memory, oldest first, with grains that say which overlay they are of.
struct Chain {
  std::vector<std::byte> base = std::vector<std::byte>(kBaseBytes, std::byte{0xb0});
  std::vector<std::vector<std::byte>> bytes;

  explicit Chain(int count) : bytes(static_cast<size_t>(count)) {
    for (int i = 0; i < count; ++i) {
      bytes[index(i)].resize(cow_file_bytes(header_of(i)));
      MemCowFile file(bytes[index(i)]);
      REQUIRE(format_cow_overlay(file, header_of(i), i == 0 ? "" : uuid_of(i - 1)).ok());
      if (i + 1 < count) set_state(i, {.condition = CowCondition::kSealed});
    }
  }
  static size_t index(int number) { return static_cast<size_t>(number); }
  void set_state(int number, CowState state) {
    state.uuid = uuid_of(number);
    MemCowFile file(bytes[index(number)]);
    REQUIRE(file.write(kCowStateAt, print_cow_state(state)).ok());
  }
  CowOverlay load(int number) {
    MemCowFile file(bytes[index(number)]);
    return load_cow_overlay(file).value();
  }
  // As a VM would; the grain's bytes are the overlay's number.
  void keep(int number, uint64_t grain) {
    std::vector<std::byte>& own = bytes[index(number)];
    const auto at = static_cast<ptrdiff_t>(cow_data_at(header_of(number)) + grain * kGrain);
    std::fill_n(own.begin() + at, kGrain, static_cast<std::byte>(number));
    own[kCowTableAt + grain / 8] |= static_cast<std::byte>(1U << grain % 8);
  }
  // What the snapshot holds, by grain.
  std::vector<int> read(int number, std::vector<int> newer) {
    CowReader::Config config;
    config.base = std::make_unique<MemCowFile>(base);
    config.overlays.push_back(std::make_unique<MemCowFile>(bytes[index(number)]));
    for (const int other : newer) {
      config.overlays.push_back(std::make_unique<MemCowFile>(bytes[index(other)]));
    }
    auto reader = CowReader::open(std::move(config)).value();
    std::vector<std::byte> all(reader->size_bytes());
    REQUIRE(reader->read(0, all).ok());
    std::vector<int> grains;
    for (uint64_t at = 0; at < all.size(); at += kGrain) {
      const auto end =
          all.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>(at + kGrain, all.size()));
      const auto begin = all.begin() + static_cast<ptrdiff_t>(at);
      CHECK(std::all_of(begin, end, [&](std::byte byte) { return byte == *begin; }));
      grains.push_back(static_cast<int>(*begin));
    }
    return grains;
  }
};

// An overlay file over an image, as a VM makes, closes and opens it.
struct Files {
  TestImage image{1U << 20U};
  TemporaryFolder folder{};
  std::string path = folder.path() + "/snapshot.cow";
  CowHeader header{.uuid = uuid_of(1), .disk = "image", .base_bytes = 1U << 20U};

  CowBaseStamp stamp() const { return stamp_cow_base(image.open().get(), "image").value(); }
  std::unique_ptr<CowFdFile> open(int flags = O_RDWR) const {
    return CowFdFile::open(open_file("overlay", path, flags).value(), path).value();
  }
  void let_go() const {
    auto file = open();
    const CowState state{.uuid = header.uuid, .condition = CowCondition::kClean, .base = stamp()};
    REQUIRE(file->write(kCowStateAt, print_cow_state(state)).ok());
  }
};

}  // namespace

TEST_CASE("cow overlay: a new one is locked, sparse, empty and open") {
  Files files;
  UniqueFd fd = create_cow_overlay(files.path, files.header, uuid_of(0)).value();
  CHECK(check_unlocked(files.open()->fd(), "overlay").error().kind == ErrorKind::kLocked);
  const CowOverlay overlay = load_cow_overlay(*files.open(O_RDONLY)).value();
  CHECK(overlay.header.uuid == uuid_of(1));
  CHECK(overlay.older == uuid_of(0));
  CHECK(overlay.state.condition == CowCondition::kOpen);
  CHECK(overlay.table.kept() == 0);
  struct stat status {};
  REQUIRE(::stat(files.path.c_str(), &status) == 0);
  CHECK(static_cast<uint64_t>(status.st_size) == cow_file_bytes(files.header));
  CHECK(status.st_blocks * 512 < 65536);
  CHECK((status.st_mode & 0777) == 0600);
  // What exists is left as it is.
  CHECK_THAT(create_cow_overlay(files.path, files.header, "").error().message,
             Catch::Contains("cannot be named so"));
}

TEST_CASE("cow overlay: an overlay whose making was interrupted is none") {
  for (uint64_t writes = 0; writes < 4; ++writes) {
    std::vector<std::byte> bytes(cow_file_bytes(header_of(1)));
    MemCowFile file(bytes);
    file.most_writes = writes;
    CHECK(!format_cow_overlay(file, header_of(1), "").ok());
    CHECK(!load_cow_overlay(file).ok());
  }
}

TEST_CASE("cow overlay: opened again it is as it was, also after an unclean end") {
  Files files;
  { UniqueFd fd = create_cow_overlay(files.path, files.header, "").value(); }
  auto file = files.open();
  CHECK(open_cow_overlay(*file, "image", files.stamp()).value().state.opens == 2);
  files.let_go();
  const CowOverlay again = open_cow_overlay(*file, "image", files.stamp()).value();
  CHECK(again.state.condition == CowCondition::kOpen);
  CHECK(load_cow_overlay(*file).value().state.condition == CowCondition::kOpen);
}

TEST_CASE("cow overlay: a disk that was changed meanwhile is refused, and the mark stays") {
  Files files;
  { UniqueFd fd = create_cow_overlay(files.path, files.header, "").value(); }
  files.let_go();
  {
    const UniqueFd writer = files.image.open(O_RDWR);
    REQUIRE(::pwrite(writer.get(), "x", 1, 5000) == 1);
  }
  auto file = files.open();
  for (int i = 0; i < 2; ++i) {
    CHECK_THAT(open_cow_overlay(*file, "image", files.stamp()).error().message,
               Catch::Contains("was changed"));
  }
}

TEST_CASE("cow overlay: a LUN may have grown, an image may not") {
  CowOverlay overlay;
  overlay.state.condition = CowCondition::kClean;
  overlay.state.base = {.file = false, .size_bytes = 4096};
  CHECK(check_cow_base(overlay, {.file = false, .size_bytes = 8192}).ok());
  CHECK(!check_cow_base(overlay, {.file = false, .size_bytes = 2048}).ok());
  CHECK(!check_cow_base(overlay, {.file = true, .size_bytes = 4096}).ok());
  overlay.state.base = {.file = true, .size_bytes = 4096, .mtime_ns = 1, .ctime_ns = 2};
  CHECK(check_cow_base(overlay, overlay.state.base).ok());
  CHECK(!check_cow_base(overlay, {.file = true, .size_bytes = 8192, .mtime_ns = 1, .ctime_ns = 2})
             .ok());
  CHECK(!check_cow_base(overlay, {.file = true, .size_bytes = 4096, .mtime_ns = 1, .ctime_ns = 3})
             .ok());
}

TEST_CASE("cow overlay: another disk, a smaller one, and a broken snapshot are refused") {
  Files files;
  { UniqueFd fd = create_cow_overlay(files.path, files.header, "").value(); }
  auto file = files.open();
  CHECK_THAT(open_cow_overlay(*file, "other", files.stamp()).error().message,
             Catch::Contains("of image, not of other"));
  CowBaseStamp small = files.stamp();
  small.size_bytes /= 2;
  CHECK(!open_cow_overlay(*file, "image", small).ok());
  REQUIRE(break_cow_overlay(*file, "the disk burned").ok());
  CHECK_THAT(open_cow_overlay(*file, "image", files.stamp()).error().message,
             Catch::Contains("is broken: the disk burned"));
}

TEST_CASE("cow overlay: its writer is seen, until it disowns the overlay") {
  Files files;
  const UniqueFd fd = create_cow_overlay(files.path, files.header, "").value();
  auto reader = files.open(O_RDONLY);
  CHECK(reader->has_writer().value());
  REQUIRE(disown_cow_overlay(fd.get(), "overlay").ok());
  CHECK(!reader->has_writer().value());
}

TEST_CASE("cow overlay: snapshots read as before when one between them is merged away") {
  Chain chain(3);
  chain.keep(0, 1);
  chain.keep(1, 1);
  chain.keep(1, 2);
  chain.keep(1, kGrains - 1);
  chain.keep(2, 2);
  chain.keep(2, 3);
  const std::vector<int> oldest = chain.read(0, {1, 2});
  const std::vector<int> newest = chain.read(2, {});
  CHECK(oldest == std::vector<int>{0xb0, 0, 1, 2, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 1});
  // Whatever write is the last: what is there is whole, and the next try ends it.
  for (uint64_t writes = 0;; ++writes) {
    INFO("writes " << writes);
    MemCowFile from(chain.bytes[1]);
    MemCowFile into(chain.bytes[0]);
    into.most_writes = writes;
    const bool done = merge_cow_overlay(from, into).ok();
    CHECK(chain.read(0, {1, 2}) == oldest);
    CHECK(chain.read(2, {}) == newest);
    if (done) break;
    REQUIRE(writes < 10);
  }
  MemCowFile last(chain.bytes[2]);
  REQUIRE(relink_cow_overlay(last, uuid_of(0)).ok());
  REQUIRE(relink_cow_overlay(last, uuid_of(0)).ok());
  CHECK(chain.read(0, {2}) == oldest);
  CHECK(chain.load(0).state.condition == CowCondition::kSealed);
}

TEST_CASE("cow overlay: merged into an older one, the newest hands its place on") {
  Chain chain(2);
  chain.keep(1, 4);
  const CowBaseStamp stamp{.file = true, .size_bytes = kBaseBytes, .mtime_ns = 5, .ctime_ns = 6};
  chain.set_state(1, {.condition = CowCondition::kClean, .opens = 3, .base = stamp});
  for (int i = 0; i < 2; ++i) {
    MemCowFile from(chain.bytes[1]);
    MemCowFile into(chain.bytes[0]);
    REQUIRE(merge_cow_overlay(from, into).ok());
    CHECK(chain.load(0).state.condition == CowCondition::kClean);
    CHECK(chain.load(0).state.base == stamp);
    CHECK(chain.load(0).table.has(4));
    // Whoever still reads by both is told that writes go elsewhere.
    CHECK(chain.load(1).state.condition == CowCondition::kSealed);
  }
}

TEST_CASE("cow overlay: merging away a broken snapshot breaks the one that leans on it") {
  Chain chain(2);
  chain.set_state(1, {.condition = CowCondition::kBroken, .reason = "full"});
  MemCowFile from(chain.bytes[1]);
  MemCowFile into(chain.bytes[0]);
  REQUIRE(merge_cow_overlay(from, into).ok());
  CHECK(chain.load(0).state.condition == CowCondition::kBroken);
  CHECK(chain.load(0).state.reason == "full");
}

TEST_CASE("cow overlay: what does not belong together is not merged") {
  Chain chain(3);
  MemCowFile first(chain.bytes[0]);
  MemCowFile second(chain.bytes[1]);
  MemCowFile third(chain.bytes[2]);
  CHECK_THAT(merge_cow_overlay(third, first).error().message, Catch::Contains("follows"));
  CHECK(!merge_cow_overlay(first, second).ok());
  third.writer = true;
  CHECK(merge_cow_overlay(third, second).error().kind == ErrorKind::kLocked);
}

}  // namespace plumb
