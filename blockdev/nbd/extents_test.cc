#include "blockdev/nbd/extents.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/unique_fd.h"
#include "tests/temporary_folder.h"

namespace plumb::nbd {
namespace {

constexpr uint64_t kGrain = 65536;

std::vector<Extent> described(ExtentSource& source, uint64_t offset, uint64_t length,
                              size_t most = 100) {
  ExtentList list(length, most);
  REQUIRE(source.describe(offset, list).ok());
  uint64_t sum = 0;
  for (const Extent& extent : list.extents()) sum += extent.length;
  CHECK(sum == list.covered());
  return {list.extents().begin(), list.extents().end()};
}

}  // namespace

TEST_CASE("a list of extents joins what is alike, and ends where it is full") {
  ExtentList list(100, 2);
  CHECK(list.add(10, 1));
  CHECK(list.add(0, 2));
  CHECK(list.add(10, 1));
  CHECK(list.add(30, 2));
  CHECK_FALSE(list.add(1, 1));
  CHECK(list.add(10, 2));
  CHECK_FALSE(list.add(1000, 2));
  const std::vector<Extent> expected = {{20, 1}, {80, 2}};
  CHECK(std::vector<Extent>(list.extents().begin(), list.extents().end()) == expected);
  CHECK(list.covered() == 100);
}

TEST_CASE("a bitmap is runs of grains, cut to what is asked for") {
  BitmapExtents bitmap({0b0110, ~uint64_t{0}, 1}, kGrain);
  const std::vector<Extent> all = {
      {kGrain, 0}, {2 * kGrain, kDirty}, {61 * kGrain, 0}, {65 * kGrain, kDirty}, {63 * kGrain, 0}};
  CHECK(described(bitmap, 0, 192 * kGrain) == all);
  CHECK(described(bitmap, 100, kGrain) == std::vector<Extent>{{kGrain - 100, 0}, {100, kDirty}});
  CHECK(described(bitmap, 2 * kGrain + 1, 2) == std::vector<Extent>{{2, kDirty}});
  CHECK(described(bitmap, 63 * kGrain + 7, 2 * kGrain) ==
        std::vector<Extent>{{kGrain - 7, 0}, {kGrain + 7, kDirty}});
  CHECK(described(bitmap, 0, 192 * kGrain, 2) == std::vector<Extent>{all[0], all[1]});
}

TEST_CASE("a grain without a bit has changed, for all that is known") {
  BitmapExtents bitmap({0}, kGrain);
  CHECK(described(bitmap, 60 * kGrain, 10 * kGrain) ==
        std::vector<Extent>{{4 * kGrain, 0}, {6 * kGrain, kDirty}});
  BitmapExtents none({}, kGrain);
  CHECK(described(none, 5, 10) == std::vector<Extent>{{10, kDirty}});
  CHECK(described(none, uint64_t{1} << 62U, 10) == std::vector<Extent>{{10, kDirty}});
}

TEST_CASE("the holes of a file are holes, and what is written is data") {
  const TemporaryFolder folder;
  const UniqueFd file(::open((folder.path() + "/f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  constexpr uint64_t kBytes = 16U << 20U;
  REQUIRE(::ftruncate(file.get(), kBytes) == 0);
  const std::string data(1U << 20U, 'x');
  REQUIRE(::pwrite(file.get(), data.data(), data.size(), 4U << 20U) ==
          static_cast<ssize_t>(data.size()));
  if (::lseek(file.get(), 0, SEEK_DATA) == 0) {
    WARN("SKIPPED: this file system knows no holes");
    return;
  }
  FileExtents extents(file.get(), 512);
  const uint64_t mib = 1U << 20U;
  const std::vector<Extent> all = {{4 * mib, kHole | kZero}, {mib, 0}, {11 * mib, kHole | kZero}};
  CHECK(described(extents, 0, kBytes) == all);
  CHECK(described(extents, 4 * mib + 1, 3) == std::vector<Extent>{{3, 0}});
  CHECK(described(extents, 4 * mib - 1, 2) == std::vector<Extent>{{1, kHole | kZero}, {1, 0}});
  CHECK(described(extents, kBytes - 1, 1) == std::vector<Extent>{{1, kHole | kZero}});
  CHECK(described(extents, 0, kBytes, 2) == std::vector<Extent>{all[0], all[1]});
  // Whatever the blocks are, what is data is never called a hole.
  FileExtents coarse(file.get(), 3 * mib);
  CHECK(described(coarse, 0, kBytes) ==
        std::vector<Extent>{{3 * mib, kHole | kZero}, {3 * mib, 0}, {10 * mib, kHole | kZero}});
}

TEST_CASE("what has no holes to tell of is data, and what is closed is an error") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const UniqueFd in(ends[0]);
  const UniqueFd out(ends[1]);
  FileExtents pipe(in.get(), 512);
  ExtentList list(100, 10);
  CHECK_FALSE(pipe.describe(0, list).ok());
  CHECK(list.covered() == 0);
}

}  // namespace plumb::nbd
