// The simulation itself: that it repeats, and that its checker sees each planted bug. Without these
// a million crash points without a violation would say nothing.
#include <catch2/catch.hpp>
#include <set>

#include "base/log.h"
#include "tests/fakes/planted_engine.h"
#include "tests/simulation/enumeration.h"
#include "tests/simulation/lying_engine.h"
#include "tests/simulation/random_run.h"

namespace plumb::simulation {
namespace {

// The errors that the engine is made to see would fill the test's output.
struct Quiet {
  Quiet() { log::configure("simulation", log::Level::kNothing); }
  ~Quiet() { log::configure("plumb", log::Level::kInfo); }
};

Decorate planted(PlantedBug bug) {
  return [bug](std::unique_ptr<IoEngine> below, SimEngine&) -> std::unique_ptr<IoEngine> {
    return std::make_unique<PlantedEngine>(std::move(below), bug);
  };
}

Decorate lying(Lie lie) {
  return [lie](std::unique_ptr<IoEngine> below, SimEngine& engine) -> std::unique_ptr<IoEngine> {
    return std::make_unique<LyingEngine>(std::move(below), engine, lie);
  };
}

// Runs seeds until a rule is broken; "" when none is.
std::string first_violation(RunConfig config, uint64_t seeds = 200) {
  const Quiet quiet;
  auto guests = make_guests(kMaxRunDisks);
  for (config.seed = 1; config.seed <= seeds; ++config.seed) {
    const RunResult result = run_random(config, guests);
    if (result.violation) return result.violation->invariant;
  }
  return "";
}

bool is_one_of(const std::string& invariant, const std::set<std::string>& allowed) {
  INFO("broken: " << invariant);
  return allowed.count(invariant) == 1;
}

}  // namespace

TEST_CASE("simulation: the same seed is the same run, step by step") {
  const Quiet quiet;
  std::set<uint64_t> traces;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    RunConfig config;
    config.seed = seed;
    // Memory at other addresses must make no difference.
    auto guests = make_guests(kMaxRunDisks);
    auto others = make_guests(kMaxRunDisks);
    const RunResult first = run_random(config, guests);
    const RunResult second = run_random(config, others);
    CHECK(!first.violation);
    CHECK(first.trace == second.trace);
    CHECK(first.counters.crash_points == second.counters.crash_points);
    traces.insert(first.trace);
  }
  CHECK(traces.size() == 20);
}

TEST_CASE("simulation: missing durability is seen, in runs and in the enumeration") {
  const std::pair<PlantedBug, std::set<std::string>> kBugs[] = {
      {PlantedBug::kNoDsync, {"I1"}},
      {PlantedBug::kDroppedFlush, {"I1"}},
      {PlantedBug::kZeroWithoutFlush, {"I1"}},
      // What is held back is also read before it is there.
      {PlantedBug::kEarlyCompletion, {"I1", "I3"}},
  };
  for (const auto& [bug, broken] : kBugs) {
    INFO("bug " << static_cast<int>(bug));
    RunConfig run;
    run.decorate = planted(bug);
    CHECK(is_one_of(first_violation(run), broken));
    auto guests = make_guests(1);
    EnumerationConfig all;
    all.length = 2;
    all.decorate = planted(bug);
    for (const bool shares_flushes : {false, true}) {
      if (shares_flushes && bug == PlantedBug::kNoDsync) continue;  // no write has it
      all.shares_flushes = shares_flushes;
      const EnumerationResult result = enumerate(all, guests);
      REQUIRE(result.violation);
      CHECK(is_one_of(result.violation->invariant, broken));
    }
  }
  CHECK(first_violation({.decorate = planted(PlantedBug::kNone)}, 20).empty());
}

TEST_CASE("simulation: errors and short transfers that are not passed on are seen") {
  RunConfig swallowed;
  swallowed.decorate = lying(Lie::kSwallowedError);
  // Which rule it is depends on what failed: a read, a write or a flush.
  CHECK(is_one_of(first_violation(swallowed), {"I1", "I2", "I3", "I7"}));
  for (const IoOpKind kind : {IoOpKind::kRead, IoOpKind::kWrite, IoOpKind::kSync}) {
    INFO("kind " << static_cast<int>(kind));
    RunConfig one = swallowed;
    one.lies = {{.kind = kind, .skip = 20, .times = SimRule::kForEver}};
    CHECK(!first_violation(one).empty());
  }
  for (const IoOpKind kind : {IoOpKind::kRead, IoOpKind::kWrite}) {
    INFO("kind " << static_cast<int>(kind));
    RunConfig shorter;
    shorter.decorate = lying(Lie::kShortAsWhole);
    shorter.lies = {
        {.kind = kind, .fault = SimFault::kShort, .skip = 20, .times = SimRule::kForEver}};
    CHECK(is_one_of(first_violation(shorter), {"I1", "I3"}));
  }
}

TEST_CASE("simulation: a device that lies is seen") {
  RunConfig lost;
  lost.lies = {{.kind = IoOpKind::kWrite, .fault = SimFault::kLost, .skip = 50}};
  CHECK(is_one_of(first_violation(lost), {"I1", "I3"}));
  lost.lies = {{.kind = IoOpKind::kSync, .fault = SimFault::kLost, .times = SimRule::kForEver}};
  CHECK(is_one_of(first_violation(lost), {"I1"}));
  RunConfig astray;
  astray.lies = {{.kind = IoOpKind::kWrite, .fault = SimFault::kMisdirected, .skip = 50}};
  CHECK(is_one_of(first_violation(astray), {"I1", "I3", "I4"}));
}

TEST_CASE("simulation: stale reads and writes outside the disk are seen") {
  CHECK(first_violation({.decorate = lying(Lie::kStaleRead)}) == "I3");
  CHECK(first_violation({.decorate = lying(Lie::kOutsideRange)}) == "I4");
}

TEST_CASE("simulation: a request that never comes back is seen") {
  // A reset would wait for it for ever.
  CHECK(first_violation({.decorate = lying(Lie::kNeverCompletes), .resets = false}) == "I8");
}

namespace {

// One disk whose life a test tells step by step.
struct Story {
  explicit Story(DiskPlan made = {}, SimEngine::Config engine = {}, Decorate decorate = {})
      : plan(std::move(made)) {
    device.emplace(plan.medium);
    checker.add_disk(*device);
    machine.emplace(
        Machine::Config{
            .engine = std::move(engine), .disks = {plan}, .decorate = std::move(decorate)},
        guests, checker);
  }
  GuestDriver& driver() { return machine->driver(0); }
  void ask(BlockOp op, uint32_t first, uint32_t blocks) {
    driver().ask({.op = op, .first = first, .blocks = blocks});
    driver().publish();
    machine->turn(kNoWait);
  }
  std::string broken() const {
    return checker.violation() ? checker.violation()->invariant : std::string();
  }

  Quiet quiet;
  DiskPlan plan;
  std::vector<std::unique_ptr<FakeGuest>> guests = make_guests(1);
  std::optional<SimDevice> device;
  Checker checker;
  std::optional<Machine> machine;
};

}  // namespace

TEST_CASE("simulation: a chain that comes back twice is seen") {
  Story story;
  story.ask(BlockOp::kWrite, 0, 2);
  story.machine->finish();
  CHECK(story.broken().empty());
  story.driver().return_last_chain_again();
  story.driver().collect();
  CHECK(story.broken() == "I8");
}

TEST_CASE("simulation: memory that changes after a reset is seen") {
  for (const bool late : {false, true}) {
    Story story({}, {}, late ? lying(Lie::kLateWrite) : Decorate());
    story.ask(BlockOp::kRead, 0, 2);
    story.machine->reset(0);
    CHECK(story.broken() == (late ? "I5" : ""));
  }
}

TEST_CASE("simulation: a held disk that changes is seen") {
  Story story;
  story.ask(BlockOp::kWrite, 0, 2);
  story.machine->hold(kForever);
  for (int i = 0; i < 8 && !story.checker.is_frozen(); ++i) story.machine->turn(kForever);
  REQUIRE(story.checker.is_frozen());
  fill_block(story.device->write_medium(3), story.device->block_size(), kZeroes);
  story.machine->release();
  CHECK(story.broken() == "I6");
}

TEST_CASE("simulation: what a hold parks goes on after it, and nothing before") {
  Story story;
  story.machine->hold(kForever);
  story.ask(BlockOp::kWrite, 0, 2);
  for (int i = 0; i < 8; ++i) story.machine->turn(kForever);
  CHECK(story.checker.is_frozen());
  CHECK(story.driver().outstanding() == 1);
  story.machine->release();
  story.machine->finish();
  CHECK(story.driver().outstanding() == 0);
  CHECK(story.broken().empty());
}

TEST_CASE("simulation: a reset ends what fails meanwhile, also on a disk that stops for errors") {
  DiskPlan plan;
  plan.on_error = ErrorPolicy::kPause;
  SimEngine::Config engine;
  engine.rules.push_back({.kind = IoOpKind::kWrite, .times = SimRule::kForEver});
  Story story(plan, std::move(engine));
  story.ask(BlockOp::kWrite, 0, 2);
  REQUIRE(story.machine->disk(0).in_flight() == 1);
  story.machine->reset(0);
  CHECK(story.driver().outstanding() == 0);
  story.ask(BlockOp::kRead, 0, 2);
  story.machine->finish();
  CHECK(story.broken().empty());
}

TEST_CASE("simulation: after a crash in the middle of a write each block is old or new") {
  std::set<std::pair<bool, bool>> outcomes;
  for (uint64_t seed = 1; seed <= 64; ++seed) {
    Story story({}, {.seed = seed});
    story.ask(BlockOp::kWrite, 0, 2);
    const BlockValue before[] = {value_in(story.device->current(0), 512),
                                 value_in(story.device->current(1), 512)};
    story.machine.reset();
    outcomes.insert({value_in(story.device->current(0), 512) == before[0],
                     value_in(story.device->current(1), 512) == before[1]});
    story.machine.emplace(Machine::Config{.engine = {}, .disks = {story.plan}, .decorate = {}},
                          story.guests, story.checker);
    story.machine->recover();
    CHECK(story.broken().empty());
  }
  CHECK(outcomes.size() == 4);
}

}  // namespace plumb::simulation
