// Snapshots by copy before write in the simulation: that each planted bug is seen.
#include <catch2/catch.hpp>

#include "base/log.h"
#include "tests/simulation/cow_run.h"

namespace plumb::simulation {
namespace {

struct Quiet {
  Quiet() { log::configure("simulation", log::Level::kNothing); }
  ~Quiet() { log::configure("plumb", log::Level::kInfo); }
};

// Runs seeds until a rule is broken; "" when none is.
std::string first_violation(CowBug bug, uint64_t seeds) {
  const Quiet quiet;
  auto guests = make_guests(1);
  CowRunConfig config;
  config.bug = bug;
  for (config.seed = 1; config.seed <= seeds; ++config.seed) {
    const CowRunResult result = run_cow(config, guests);
    if (!result.run.violation) continue;
    UNSCOPED_INFO("seed " << config.seed << ": " << result.run.violation->text);
    return result.run.violation->invariant;
  }
  return "";
}

}  // namespace

TEST_CASE("cow simulation: the same seed is the same run") {
  const Quiet quiet;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    INFO("seed " << seed);
    auto guests = make_guests(1);
    auto others = make_guests(1);
    CowRunConfig config;
    config.seed = seed;
    const CowRunResult first = run_cow(config, guests);
    CHECK(!first.run.violation);
    CHECK(first.run.trace == run_cow(config, others).run.trace);
  }
}

TEST_CASE("cow simulation: without a bug, snapshots are taken, read, merged and broken") {
  CHECK(first_violation(CowBug::kNone, 30).empty());
  const Quiet quiet;
  auto guests = make_guests(1);
  CowRunResult sum;
  CowRunConfig config;
  for (config.seed = 1; config.seed <= 30; ++config.seed) {
    const CowRunResult result = run_cow(config, guests);
    sum.taken += result.taken;
    sum.read += result.read;
    sum.merged += result.merged;
    sum.broken += result.broken;
    sum.unmarked += result.unmarked;
  }
  CHECK(sum.taken > 100);
  CHECK(sum.read > 100);
  CHECK(sum.merged > 10);
  CHECK(sum.broken > 10);
  CHECK(sum.unmarked > 0);
}

TEST_CASE("cow simulation: each planted bug is seen") {
  const auto bug = GENERATE(CowBug::kTableBeforeData, CowBug::kDataNotDurable,
                            CowBug::kWriteBeforeTable, CowBug::kTableNotDurable, CowBug::kNoFlush,
                            CowBug::kNotSealed, CowBug::kReaderLooksOnce, CowBug::kMarkLost);
  INFO("bug " << static_cast<int>(bug));
  CHECK(first_violation(bug, 300) == "I9");
}

}  // namespace plumb::simulation
