#include "tests/lab/cut/commit_log.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>

namespace commit_log {
namespace {

constexpr uint64_t kWordsPerSector = kSectorBytes / sizeof(uint64_t);
constexpr uint64_t kZeroesPerWrite =
    32;  // of Mix::kZeroes: so many generations from one write to the next

// splitmix64's finalizer: every bit of the input changes every bit of the result.
uint64_t mixed(uint64_t value) {
  value += 0x9e3779b97f4a7c15U;
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31U);
}

uint64_t key(uint64_t seed, uint32_t area, uint64_t generation) {
  return mixed(mixed(mixed(seed) ^ area) ^ generation);
}

bool is_zero(const std::byte* sector) {
  static constexpr std::array<std::byte, kSectorBytes> kZero{};
  return std::memcmp(sector, kZero.data(), kSectorBytes) == 0;
}

// What is known of one area: its generations, and which of them is in each sector.
class AreaCheck {
 public:
  AreaCheck(const Run& run, uint32_t area, const std::byte* data)
      : seed_(run.seed), area_(area), acknowledged_(run.acknowledged[area]), data_(data) {
    Generations generations(run, area);
    while (generations.newest() < acknowledged_ + kUnreported) {
      commits_.push_back(generations.next());
    }
  }

  Verdict verify() {
    for (uint64_t sector = 0; sector < area_sectors(area_); ++sector) look_at(sector);
    // A generation was begun when the one before was complete, so what is here proves commits too,
    // reported or not.
    newest_complete_ = acknowledged_;
    for (const Found& found : found_) {
      if (found.generation > newest_complete_ + 1) newest_complete_ = found.generation - 1;
    }
    for (uint64_t sector = 0; sector < found_.size(); ++sector) check(sector);
    return {.acknowledged = acknowledged_, .lost = lost_.size(), .garbage = garbage_};
  }

 private:
  struct Found {
    bool zeroes = false;
    uint64_t generation = 0;  // 0: zeroes or garbage
  };

  const Commit& commit(uint64_t generation) const { return commits_[generation - 1]; }

  void look_at(uint64_t sector) {
    const std::byte* at = data_ + sector * kSectorBytes;
    Found found{.zeroes = is_zero(at)};
    uint64_t generation = 0;
    std::memcpy(&generation, at, sizeof generation);
    if (generation > 0 && generation <= commits_.size() && commit(generation).covers(sector) &&
        !commit(generation).zeroes) {
      std::array<std::byte, kSectorBytes> wanted;
      fill_sector(wanted.data(), seed_, area_, sector, generation);
      if (std::memcmp(at, wanted.data(), kSectorBytes) == 0) found.generation = generation;
    }
    found_.push_back(found);
  }

  void check(uint64_t sector) {
    uint64_t wanted = newest_complete_;
    while (wanted > 0 && !commit(wanted).covers(sector)) --wanted;
    const Found& found = found_[sector];
    const bool wants_zeroes = wanted == 0 || commit(wanted).zeroes;
    if (wants_zeroes ? found.zeroes : found.generation == wanted) return;
    if (found.generation > newest_complete_) return;
    if (found.zeroes && may_be_zeroed(sector)) return;
    if (!found.zeroes && found.generation == 0) {
      ++garbage_;
      if (garbage_ == 1) say(sector, wanted, "what nobody wrote there");
    } else if (lost_.insert(wanted).second && lost_.size() == 1) {
      say(sector, wanted, found.zeroes ? "zeroes" : "an older one");
    }
  }

  bool may_be_zeroed(uint64_t sector) const {
    for (uint64_t next = newest_complete_ + 1; next <= commits_.size(); ++next) {
      if (commit(next).zeroes && commit(next).covers(sector)) return true;
    }
    return false;
  }

  void say(uint64_t sector, uint64_t wanted, const char* found) const {
    std::printf("LOST area %u sector %llu: generation %llu is gone (%llu acknowledged), found %s\n",
                area_, static_cast<unsigned long long>(sector),
                static_cast<unsigned long long>(wanted),
                static_cast<unsigned long long>(acknowledged_), found);
  }

  const uint64_t seed_;
  const uint32_t area_;
  const uint64_t acknowledged_;
  const std::byte* const data_;
  uint64_t newest_complete_ = 0;
  std::vector<Commit> commits_;
  std::vector<Found> found_;  // by sector
  std::set<uint64_t> lost_;   // generations
  uint64_t garbage_ = 0;
};

Mix mix_of(const std::string& name) {
  if (name == "through") return Mix::kThrough;
  if (name == "back") return Mix::kBack;
  if (name == "zeroes") return Mix::kZeroes;
  throw std::runtime_error("no mix " + name);
}

}  // namespace

std::vector<Run> read_ledger(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<Run> runs;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Run run;
    std::string mix;
    if (!(words >> run.seed >> mix)) throw std::runtime_error("not a ledger: " + line);
    run.mix = mix_of(mix);
    uint32_t area = 0;
    char colon = 0;
    for (uint64_t generation = 0; words >> area >> colon >> generation;) {
      run.acknowledged.at(area) = generation;
    }
    if (!words.eof()) throw std::runtime_error("not a ledger: " + line);
    runs.push_back(std::move(run));
  }
  return runs;
}

uint64_t area_start(uint32_t area) {
  return area == 0 ? 0 : kAppendSectors + (area - 1) * kAreaSectors;
}

uint64_t area_sectors(uint32_t area) { return area == 0 ? kAppendSectors : kAreaSectors; }

bool area_used(Mix mix, uint32_t area) { return area != 0 || mix != Mix::kZeroes; }

Commit Generations::next() {
  ++generation_;
  const uint64_t random = key(seed_, area_, generation_);
  const uint64_t sectors = area_sectors(area_);
  Commit commit;
  if (mix_ == Mix::kZeroes) {
    if (generation_ % kZeroesPerWrite == 1) return {.start = 0, .count = sectors, .zeroes = false};
    commit.zeroes = true;
    commit.count = 1 + random % 16;
  } else {
    commit.zeroes = mix_ == Mix::kBack && area_ != 0 && random % 8 == 0;
    // Short ones as often as long ones.
    const uint64_t longest = uint64_t{1} << ((random >> 3U) % 8);
    commit.count = 1 + (random >> 8U) % longest;
  }
  if (area_ != 0) {
    commit.start = (random >> 32U) % (sectors - commit.count + 1);
  } else {
    if (append_at_ + commit.count > sectors) append_at_ = 0;
    commit.start = append_at_;
    append_at_ += commit.count;
  }
  return commit;
}

void fill_sector(std::byte* sector, uint64_t seed, uint32_t area, uint64_t number,
                 uint64_t generation) {
  std::array<uint64_t, kWordsPerSector> words;
  words[0] = generation;
  uint64_t state = key(seed, area, generation) ^ mixed(number);
  for (size_t i = 1; i < words.size(); ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    words[i] = state;
  }
  std::memcpy(sector, words.data(), kSectorBytes);
}

Verdict verify_region(const Run& run, const std::byte* region) {
  Verdict all;
  for (uint32_t area = 0; area < kAreas; ++area) {
    if (!area_used(run.mix, area)) continue;
    const Verdict verdict = AreaCheck(run, area, region + area_start(area) * kSectorBytes).verify();
    all.acknowledged += verdict.acknowledged;
    all.lost += verdict.lost;
    all.garbage += verdict.garbage;
  }
  return all;
}

}  // namespace commit_log
