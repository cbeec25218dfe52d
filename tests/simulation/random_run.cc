#include "tests/simulation/random_run.h"

#include "tests/simulation/draws.h"

namespace plumb::simulation {
namespace {

class RandomRun {
 public:
  RandomRun(const RunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests)
      : config_(config), draws_(config.seed), guests_(guests) {
    if (config.trace) checker_.narrate();
    const uint32_t disks = random_.chance(kHalf / 2) ? 2 : 1;
    for (uint32_t i = 0; i < disks; ++i) {
      plans_.push_back(draws_.disk());
      devices_.push_back(std::make_unique<SimDevice>(plans_.back().medium));
      checker_.add_disk(*devices_.back());
    }
    trouble_ = draws_.trouble();
  }

  RunResult run() {
    for (uint32_t life = 0; life < config_.lives && !checker_.violation(); ++life) {
      live(life > 0);
    }
    result_.counters = checker_.counters();
    result_.trace = checker_.trace();
    result_.violation = checker_.violation();
    return result_;
  }

 private:
  void live(bool recover);
  void act(Machine& machine);
  void disturb(Machine& machine);
  void resize(uint32_t disk);

  uint32_t pick_disk() { return random_.below(static_cast<uint32_t>(plans_.size())); }

  const RunConfig& config_;
  Draws draws_;
  SimRandom& random_ = draws_.random;
  std::vector<std::unique_ptr<FakeGuest>>& guests_;
  std::vector<DiskPlan> plans_;
  std::vector<std::unique_ptr<SimDevice>> devices_;
  Checker checker_;
  Trouble trouble_ = Trouble::kNone;
  RunResult result_;
};

void RandomRun::live(bool recover) {
  Machine::Config config{.engine = draws_.engine(trouble_, config_.lies),
                         .disks = plans_,
                         .decorate = config_.decorate};
  for (DiskPlan& plan : config.disks) plan.driver.seed = random_.next();
  for (const auto& device : devices_) device->resize(device->config().blocks);
  Machine machine(std::move(config), guests_, checker_);
  if (recover) machine.recover();
  for (uint32_t i = 0; i < config_.turns_per_life && !checker_.violation(); ++i) act(machine);
  result_.faults += machine.engine().faults();
  if (random_.chance(kHalf / 2)) {
    machine.release();
    machine.engine().find_path();
    for (const auto& device : devices_) device->resize(device->config().blocks);
    machine.finish();
    checker_.check_all();
  }
  machine.lose_power();
  ++result_.crashes;
}

// A turn of the machine, with what the guest and fate do before it.
void RandomRun::act(Machine& machine) {
  if (random_.chance(kHalf / 16)) disturb(machine);
  if (random_.chance(kHalf / 4)) machine.retry();
  for (uint32_t requests = random_.below(4); requests > 0; --requests) {
    const uint32_t disk = pick_disk();
    if (machine.driver(disk).has_room()) draws_.ask(machine.driver(disk), plans_[disk]);
  }
  for (uint32_t i = 0; i < plans_.size(); ++i) machine.driver(i).publish();
  const int64_t now_ns = machine.engine().now_ns();
  machine.turn(draws_.one_of<int64_t>({kNoWait, now_ns + 500, kForever, kForever}));
}

// What happens rarely: from outside, or because the guest has a mind to.
void RandomRun::disturb(Machine& machine) {
  const uint32_t disk = pick_disk();
  switch (random_.below(6)) {
    case 0:
    case 1:
      if (machine.held()) {
        machine.release();
      } else {
        const int64_t now_ns = machine.engine().now_ns();
        machine.hold(random_.chance(kHalf) ? kForever : now_ns + 2000);
        ++result_.holds;
      }
      return;
    case 2:
      if (!config_.resets || machine.held() || machine.engine().path_lost()) return;
      machine.reset(disk);
      ++result_.resets;
      return;
    case 3:
      if (machine.driver(disk).can_set_writeback()) {
        machine.driver(disk).set_writeback(random_.chance(kHalf));
      }
      return;
    case 4:
      if (trouble_ != Trouble::kPaths) return;
      if (machine.engine().path_lost()) {
        machine.engine().find_path();
      } else {
        machine.engine().lose_path();
        ++result_.path_losses;
      }
      return;
    default:
      if (trouble_ == Trouble::kMuch && !machine.held()) resize(disk);
      return;
  }
}

// The device is another size, all of a sudden; the machine is not told.
void RandomRun::resize(uint32_t disk) {
  SimDevice& device = *devices_[disk];
  const uint32_t all = device.config().blocks;
  const uint32_t blocks = device.blocks() < all ? all : all - random_.below(8);
  if (blocks < device.blocks()) checker_.resized(disk, blocks);
  device.resize(blocks);
  ++result_.resizes;
}

}  // namespace

RunResult run_random(const RunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests) {
  return RandomRun(config, guests).run();
}

void add(RunResult& sum, const RunResult& result) {
  sum.counters.steps += result.counters.steps;
  sum.counters.crash_points += result.counters.crash_points;
  sum.counters.outcomes += result.counters.outcomes;
  sum.counters.requests += result.counters.requests;
  sum.counters.reads_checked += result.counters.reads_checked;
  sum.counters.failed += result.counters.failed;
  sum.crashes += result.crashes;
  sum.resets += result.resets;
  sum.holds += result.holds;
  sum.resizes += result.resizes;
  sum.path_losses += result.path_losses;
  sum.faults += result.faults;
  sum.trace = (sum.trace ^ result.trace) * 0x100000001b3ULL;
}

}  // namespace plumb::simulation
