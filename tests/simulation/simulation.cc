// simulation: runs of the block path in virtual time, from seeds, with a checker beside them; and
// the enumeration of all short ones. tests/README.md says how to use it.
#include <fmt/core.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <string>
#include <string_view>

#include "base/log.h"
#include "tests/simulation/cow_run.h"
#include "tests/simulation/enumeration.h"
#include "tests/simulation/random_run.h"

namespace plumb::simulation {
namespace {

constexpr const char* kUsage =
    "usage: simulation [--seed N] [--crash-points N] [--seconds N] [--enumerate LENGTH] [--cow] "
    "[--trace]\n"
    "  --seed N          the first seed; each run takes the next (1)\n"
    "  --crash-points N  runs until as many were checked (100000)\n"
    "  --seconds N       at most so long\n"
    "  --enumerate L     all sequences of up to L requests, first (0: none)\n"
    "  --cow             of a disk with copy-before-write snapshots\n"
    "  --trace           prints everything that happens\n";

struct Options {
  uint64_t seed = 1;
  uint64_t crash_points = 100'000;
  uint64_t seconds = UINT32_MAX;
  uint64_t enumerate = 0;
  bool cow = false;
  bool trace = false;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--trace" || name == "--cow") {
      (name == "--cow" ? options.cow : options.trace) = true;
      continue;
    }
    uint64_t* value = nullptr;
    if (name == "--seed") value = &options.seed;
    if (name == "--crash-points") value = &options.crash_points;
    if (name == "--seconds") value = &options.seconds;
    if (name == "--enumerate") value = &options.enumerate;
    if (value == nullptr || ++i == argc) return false;
    const std::string_view text = argv[i];
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), *value);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return false;
  }
  return true;
}

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A run takes milliseconds. One that does not end is told by its seed, too.
constexpr unsigned kMostSeconds = 60;
std::string g_hanging;  // what to say then

std::string repetition(const Options& options, uint64_t seed) {
  return fmt::format("repeat: simulation {}--seed {} --crash-points 1 --trace\n",
                     options.cow ? "--cow " : "", seed);
}

void arm_watchdog(const Options& options, uint64_t seed) {
  g_hanging = "VIOLATION of I8: a run does not end\n" + repetition(options, seed);
  std::signal(SIGALRM, [](int) {
    const ssize_t written = ::write(STDOUT_FILENO, g_hanging.data(), g_hanging.size());
    ::_exit(written > 0 ? 1 : 3);
  });
  ::alarm(kMostSeconds);
}

void print_violation(const Violation& violation) {
  fmt::print("VIOLATION of {} at step {}, disk {}: {}\n", violation.invariant, violation.step,
             violation.disk, violation.text);
}

bool enumerate_all(uint32_t length) {
  struct Medium {
    const char* name;
    bool block_device;
    bool shares_flushes;
  };
  constexpr Medium kMedia[] = {{"image", false, false},
                               {"image, shared flushes", false, true},
                               {"block device", true, false}};
  auto guests = make_guests(1);
  for (const Medium& medium : kMedia) {
    for (const CacheMode cache : {CacheMode::kWritethrough, CacheMode::kWriteback}) {
      const Stopwatch watch;
      const EnumerationResult result = enumerate({.length = length,
                                                  .block_device = medium.block_device,
                                                  .shares_flushes = medium.shares_flushes,
                                                  .cache = cache,
                                                  .decorate = {}},
                                                 guests);
      fmt::print(
          "enumeration, {}, {}: {} sequences of up to {} requests, {} orders of completion, {} "
          "crash points, {} crashes read back, {:.1f} s\n",
          medium.name, cache == CacheMode::kWriteback ? "writeback" : "writethrough",
          result.sequences, length, result.schedules, result.crash_points, result.crashes,
          watch.seconds());
      if (!result.violation) continue;
      print_violation(*result.violation);
      fmt::print("the sequence: {}\nrepeat: simulation --enumerate {} --crash-points 0\n",
                 result.where, length);
      return false;
    }
  }
  return true;
}

void add(CowRunResult& sum, const CowRunResult& result) {
  add(sum.run, result.run);
  sum.counters.crash_points += result.counters.crash_points;
  sum.counters.outcomes += result.counters.outcomes;
  sum.counters.blocks_read += result.counters.blocks_read;
  sum.taken += result.taken;
  sum.broken += result.broken;
  sum.unmarked += result.unmarked;
  sum.merged += result.merged;
  sum.read += result.read;
}

CowRunResult run_seed(const Options& options, uint64_t seed,
                      std::vector<std::unique_ptr<FakeGuest>>& guests) {
  if (options.cow) {
    CowRunConfig config;
    config.seed = seed;
    config.trace = options.trace;
    return run_cow(config, guests);
  }
  RunConfig config;
  config.seed = seed;
  config.trace = options.trace;
  CowRunResult result;
  result.run = run_random(config, guests);
  return result;
}

bool run_seeds(const Options& options) {
  auto guests = make_guests(kMaxRunDisks);
  const Stopwatch watch;
  CowRunResult all;
  RunResult& sum = all.run;
  uint64_t seed = options.seed;
  while (sum.counters.crash_points < options.crash_points &&
         watch.seconds() < static_cast<double>(options.seconds)) {
    arm_watchdog(options, seed);
    const CowRunResult result = run_seed(options, seed, guests);
    add(all, result);
    if (result.run.violation) {
      print_violation(*result.run.violation);
      fmt::print("{}", repetition(options, seed));
      return false;
    }
    ++seed;
  }
  ::alarm(0);
  const Checker::Counters& counters = sum.counters;
  fmt::print(
      "seeds {} to {}: {} crash points with {} outcomes, 0 violations, {:.1f} s\n"
      "  {} requests ({} failed), {} backend steps, {} blocks read and compared\n"
      "  {} power losses, {} resets, {} holds, {} lost paths, {} resizes, {} faults\n"
      "  trace {:016x}\n",
      options.seed, seed - 1, counters.crash_points, counters.outcomes, watch.seconds(),
      counters.requests, counters.failed, counters.steps, counters.reads_checked, sum.crashes,
      sum.resets, sum.holds, sum.path_losses, sum.resizes, sum.faults, sum.trace);
  if (!options.cow) return true;
  fmt::print(
      "snapshots: {} crash points with {} outcomes\n"
      "  {} taken, {} broken ({} without a mark), {} merged, {} times read whole, {} blocks read "
      "and compared\n",
      all.counters.crash_points, all.counters.outcomes, all.taken, all.broken, all.unmarked,
      all.merged, all.read, all.counters.blocks_read);
  return true;
}

}  // namespace
}  // namespace plumb::simulation

int main(int argc, char** argv) {
  using namespace plumb::simulation;
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  // The engine logs each error that it is made to see.
  plumb::log::configure("simulation", plumb::log::Level::kNothing);
  bool ok = true;
  if (options.enumerate > 0) ok = enumerate_all(static_cast<uint32_t>(options.enumerate));
  if (ok && options.crash_points > 0) ok = run_seeds(options);
  return ok ? 0 : 1;
}
