// What the power-cut rig calls lost, shown on regions in memory.
#include "tests/lab/cut/commit_log.h"

#include <catch2/catch.hpp>
#include <cstring>

namespace commit_log {
namespace {

// A region as a disk that loses nothing has it; `disk` may then be spoilt.
struct Fixture {
  explicit Fixture(Mix mix) {
    run.seed = 7;
    run.mix = mix;
    for (uint32_t area = 0; area < kAreas; ++area) newest.emplace_back(run, area);
  }
  // Writes the next generation of an area, all of it or the first `sectors` sectors.
  Commit put(uint32_t area, uint64_t sectors = kRegionSectors) {
    Generations& generations = newest[area];
    const Commit commit = generations.next();
    for (uint64_t i = 0; i < commit.count && i < sectors; ++i) {
      std::byte* at = sector(area, commit.start + i);
      if (commit.zeroes) {
        std::memset(at, 0, kSectorBytes);
      } else {
        fill_sector(at, run.seed, area, commit.start + i, generations.newest());
      }
    }
    return commit;
  }
  // The next one that is, or is not, a zeroing, with all before it; acknowledged.
  Commit put_kind(uint32_t area, bool zeroes) {
    for (;;) {
      const Commit commit = put(area);
      run.acknowledged[area] = newest[area].newest();
      if (commit.zeroes == zeroes) return commit;
    }
  }
  std::byte* sector(uint32_t area, uint64_t number) {
    return disk.data() + (area_start(area) + number) * kSectorBytes;
  }
  Verdict verify() const { return verify_region(run, disk.data()); }

  Run run;
  std::vector<Generations> newest;  // by area
  std::vector<std::byte> disk{kRegionSectors * kSectorBytes};
};

}  // namespace

TEST_CASE("a disk that has all that was acknowledged has lost nothing") {
  Fixture fixture(Mix::kThrough);
  uint64_t commits = 0;
  for (uint32_t area = 0; area < kAreas; ++area) {
    for (unsigned i = 0; i < 40 + area; ++i, ++commits) fixture.put(area);
    fixture.run.acknowledged[area] = 40 + area;
  }
  const Verdict verdict = fixture.verify();
  CHECK(verdict.acknowledged == commits);
  CHECK(verdict.lost == 0);
  CHECK(verdict.garbage == 0);
}

TEST_CASE("the write in flight may be there, not there, or torn") {
  Fixture fixture(GENERATE(Mix::kThrough, Mix::kBack));
  const uint64_t sectors = GENERATE(0, 1, 3, kRegionSectors);
  for (unsigned i = 0; i < 60; ++i) {
    fixture.put(5);
    fixture.run.acknowledged[5] = fixture.newest[5].newest();
    const std::vector<std::byte> before = fixture.disk;
    const Generations generations = fixture.newest[5];
    fixture.put(5, sectors);
    const Verdict verdict = fixture.verify();
    CHECK(verdict.lost == 0);
    CHECK(verdict.garbage == 0);
    fixture.disk = before;
    fixture.newest[5] = generations;
  }
}

TEST_CASE("an acknowledged write that is not there is lost") {
  Fixture fixture(Mix::kThrough);
  fixture.put_kind(3, false);
  const std::vector<std::byte> before = fixture.disk;
  fixture.put_kind(3, false);
  CHECK(fixture.verify().lost == 0);
  fixture.disk = before;
  CHECK(fixture.verify().lost > 0);
}

TEST_CASE("so is one of which a sector is missing") {
  Fixture fixture(Mix::kBack);
  Commit commit;
  do {
    commit = fixture.put_kind(3, false);
  } while (commit.count < 2);
  std::memset(fixture.sector(3, commit.start + 1), 0, kSectorBytes);
  CHECK(fixture.verify().lost == 1);
}

TEST_CASE("zeroes that were acknowledged stay zeroes") {
  Fixture fixture(Mix::kZeroes);
  fixture.put_kind(3, false);
  const std::vector<std::byte> before = fixture.disk;
  fixture.put_kind(3, true);
  CHECK(fixture.verify().lost == 0);
  fixture.disk = before;
  CHECK(fixture.verify().lost == 1);
}

TEST_CASE("a generation on the disk proves the one before it") {
  Fixture fixture(Mix::kThrough);
  fixture.put_kind(3, false);
  const uint64_t reported = fixture.run.acknowledged[3];
  const Commit commit = fixture.put_kind(3, false);
  fixture.put_kind(3, false);
  fixture.run.acknowledged[3] = reported;
  CHECK(fixture.verify().lost == 0);
  std::memset(fixture.sector(3, 0), 0, kAreaSectors * kSectorBytes);
  fixture.put_kind(3, false);
  fixture.run.acknowledged[3] = reported;
  INFO("start " << commit.start);
  CHECK(fixture.verify().lost > 0);
}

TEST_CASE("what nobody wrote is garbage, also the right bytes at another place") {
  Fixture fixture(Mix::kThrough);
  const Commit commit = fixture.put_kind(3, false);
  std::byte* at = fixture.sector(3, commit.start);
  at[kSectorBytes - 1] ^= std::byte{1};
  CHECK(fixture.verify().garbage == 1);
  fill_sector(at, fixture.run.seed, 4, commit.start, fixture.newest[3].newest());
  CHECK(fixture.verify().garbage == 1);
}

}  // namespace commit_log
