// RandomRun: some lives of a machine that a seed decides altogether: what the disks are like, what
// the guest does, what goes wrong and when.
#pragma once

#include <memory>
#include <vector>

#include "tests/simulation/machine.h"

namespace plumb::simulation {

struct RunConfig {
  uint64_t seed = 1;
  uint32_t lives = 4;
  uint32_t turns_per_life = 400;
  Decorate decorate;          // see Machine
  std::vector<SimRule> lies;  // faults that a checker must see, in each life
  bool resets = true;
  bool trace = false;  // print everything that happens
};

struct RunResult {
  Checker::Counters counters;
  uint64_t crashes = 0;  // real ones: with a restart, and everything read back
  uint64_t resets = 0;
  uint64_t holds = 0;
  uint64_t resizes = 0;
  uint64_t path_losses = 0;
  uint64_t faults = 0;
  uint64_t trace = 0;
  std::optional<Violation> violation;
};

inline constexpr size_t kMaxRunDisks = 2;
// `guests`: memory for kMaxRunDisks drivers.
RunResult run_random(const RunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests);

// Adds counts, and mixes the traces.
void add(RunResult& sum, const RunResult& result);

}  // namespace plumb::simulation
