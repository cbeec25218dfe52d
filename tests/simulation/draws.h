// Draws: what a seed makes of disks, trouble and requests, for the runs of random_run.h and
// cow_run.h.
#pragma once

#include <vector>

#include "blockdev/sim_random.h"
#include "tests/simulation/machine.h"

namespace plumb::simulation {

inline constexpr uint32_t kHalf = 32768;  // of SimRandom::chance()

enum class Trouble : uint8_t {
  kNone,
  kLittle,   // errors, interrupted calls and short transfers, now and then
  kMuch,     // many, and devices that change their size
  kPaths,    // little, and paths that are lost and found
  kFlushes,  // flushes fail
};

struct Draws {
  explicit Draws(uint64_t seed) : random(seed) {}

  DiskPlan disk();
  Trouble trouble();
  SimEngine::Config engine(Trouble trouble, const std::vector<SimRule>& lies);
  // Has the driver ask for something; it has room.
  void ask(GuestDriver& driver, const DiskPlan& plan);
  GuestDriver::Ask request(const DiskPlan& plan);

  template <typename T, size_t kCount>
  T one_of(const T (&values)[kCount]) {
    return values[random.below(kCount)];
  }

  SimRandom random;
};

}  // namespace plumb::simulation
