// The log that a guest of the power-cut rig writes: what it consists of, so that its content can be
// told from the ledger alone and every single sector of it checked.
//
// The disk is divided into regions, one for each run (from a boot to the cut of the power). A
// region has areas; the first is appended to and starts again at its end, the others are
// overwritten at random. A commit is one write, or one zeroing, of some sectors of one area. The
// commits of an area are its generations 1, 2, 3, …, one in flight at a time; where, how long and
// with which bytes follows from seed, area and generation.
//
// The ledger is text, a line for each run: SEED MIX AREA:GENERATION …, the newest acknowledged
// generation of each area.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace commit_log {

inline constexpr uint64_t kSectorBytes = 512;
inline constexpr uint64_t kRegionSectors = 8192;  // 4 MiB
inline constexpr uint32_t kAreas = 49;
inline constexpr uint64_t kAppendSectors = 2048;
inline constexpr uint64_t kAreaSectors =
    128;  // of one that is overwritten: 64 KiB, the longest write
static_assert(kAppendSectors + (kAreas - 1) * kAreaSectors == kRegionSectors);

// Generations of an area that may be on the disk beyond those acknowledged: one in flight, and what
// was acknowledged in the guest but did not leave the lab before the cut.
inline constexpr uint64_t kUnreported = 8;

enum class Mix : uint8_t {
  kThrough,  // each write is a commit of its own; without a zeroing, whose flush could save a write
  kBack,     // an fdatasync makes a few writes and zeroings commits
  kZeroes,   // each zeroing is a commit of its own, with few writes between
};

struct Run {
  uint64_t seed = 0;
  Mix mix = Mix::kThrough;
  std::vector<uint64_t> acknowledged = std::vector<uint64_t>(kAreas);
};

// Throws std::runtime_error for what is not a ledger.
std::vector<Run> read_ledger(const std::string& path);

// Where one generation goes, in sectors of its area.
struct Commit {
  uint64_t start = 0;
  uint64_t count = 0;
  bool zeroes = false;
  bool covers(uint64_t sector) const { return sector >= start && sector < start + count; }
};

uint64_t area_start(uint32_t area);  // in sectors of the region
uint64_t area_sectors(uint32_t area);
// The append area rests while others are zeroed.
bool area_used(Mix mix, uint32_t area);

// The generations of one area, in order.
class Generations {
 public:
  Generations(const Run& run, uint32_t area) : seed_(run.seed), mix_(run.mix), area_(area) {}
  Commit next();
  uint64_t newest() const { return generation_; }

 private:
  uint64_t seed_;
  Mix mix_;
  uint32_t area_;
  uint64_t generation_ = 0;
  uint64_t append_at_ = 0;
};

// Fills one sector with what `generation` writes there. It begins with the generation.
void fill_sector(std::byte* sector, uint64_t seed, uint32_t area, uint64_t number,
                 uint64_t generation);

struct Verdict {
  uint64_t acknowledged = 0;  // commits
  uint64_t lost = 0;          // of these
  uint64_t garbage = 0;       // sectors with what nobody wrote there
};

// Checks a region as read from the disk, prints what is wrong.
Verdict verify_region(const Run& run, const std::byte* region);

}  // namespace commit_log
