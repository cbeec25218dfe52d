// CowRun: some lives of a machine whose disk has snapshots kept by copy before write, taken, read,
// merged and broken at any moment, all decided by a seed; with rule I9 checked at each step.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "blockdev/cow_device.h"
#include "tests/simulation/cow_checker.h"
#include "tests/simulation/random_run.h"

namespace plumb::simulation {

// Bugs that the checker must see.
enum class CowBug : uint8_t {
  kNone,
  kTableBeforeData,   // the table says so while the data is still on its way
  kDataNotDurable,    // … or in a cache
  kWriteBeforeTable,  // the guest's write goes on while the table is still on its way
  kTableNotDurable,   // … or in a cache
  kNoFlush,           // the disk is not flushed when a snapshot is taken
  kNotSealed,         // the overlay before is not sealed
  kReaderLooksOnce,   // a reader does not look at the table again
  kMarkLost,          // the mark of a broken snapshot is lost, and nobody told
};

struct CowRunConfig {
  uint64_t seed = 1;
  uint32_t lives = 4;
  uint32_t turns_per_life = 300;
  CowBug bug = CowBug::kNone;
  bool trace = false;  // print everything that happens
};

struct CowRunResult {
  RunResult run;
  CowChecker::Counters counters;
  uint64_t taken = 0;     // snapshots
  uint64_t broken = 0;    // of them
  uint64_t unmarked = 0;  // of those, the ones whose overlay could not say so
  uint64_t merged = 0;
  uint64_t read = 0;  // times that one was read whole
};

// `guests`: memory for one driver.
CowRunResult run_cow(const CowRunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests);

}  // namespace plumb::simulation
