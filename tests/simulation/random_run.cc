#include "tests/simulation/random_run.h"

#include <algorithm>

namespace plumb::simulation {
namespace {

constexpr uint32_t kHalf = 32768;  // of SimRandom::chance()

enum class Trouble : uint8_t {
  kNone,
  kLittle,   // errors, interrupted calls and short transfers, now and then
  kMuch,     // many, and devices that change their size
  kPaths,    // little, and paths that are lost and found
  kFlushes,  // flushes fail
};

class RandomRun {
 public:
  RandomRun(const RunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests)
      : config_(config), random_(config.seed), guests_(guests) {
    if (config.trace) checker_.narrate();
    const uint32_t disks = random_.chance(kHalf / 2) ? 2 : 1;
    for (uint32_t i = 0; i < disks; ++i) {
      plans_.push_back(draw_disk());
      devices_.push_back(std::make_unique<SimDevice>(plans_.back().medium));
      checker_.add_disk(*devices_.back());
    }
    trouble_ = one_of(
        {Trouble::kNone, Trouble::kLittle, Trouble::kMuch, Trouble::kPaths, Trouble::kFlushes});
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
  DiskPlan draw_disk();
  SimEngine::Config draw_engine();
  void live(bool recover);
  void act(Machine& machine);
  void ask(GuestDriver& driver, uint32_t disk);
  GuestDriver::Ask draw_request(uint32_t disk);
  void disturb(Machine& machine);
  void resize(uint32_t disk);

  template <typename T, size_t kCount>
  T one_of(const T (&values)[kCount]) {
    return values[random_.below(kCount)];
  }
  uint32_t pick_disk() { return random_.below(static_cast<uint32_t>(plans_.size())); }

  const RunConfig& config_;
  SimRandom random_;
  std::vector<std::unique_ptr<FakeGuest>>& guests_;
  std::vector<DiskPlan> plans_;
  std::vector<std::unique_ptr<SimDevice>> devices_;
  Checker checker_;
  Trouble trouble_ = Trouble::kNone;
  RunResult result_;
};

DiskPlan RandomRun::draw_disk() {
  DiskPlan plan;
  SimDevice::Config& medium = plan.medium;
  medium.block_size = random_.chance(kHalf / 2) ? 4096 : 512;
  medium.blocks = 16 + random_.below(49);
  medium.memory_alignment = one_of<uint32_t>({1, 4, 512});
  medium.cache_blocks = one_of<uint32_t>({8, 64, 512});
  medium.block_device = random_.chance(kHalf);
  medium.can_punch = random_.chance(3 * kHalf / 2);
  medium.can_zero_range = random_.chance(kHalf);
  // Now and then the facts promise more than is kept: then the kernel says EINVAL.
  plan.told_alignment = random_.chance(kHalf / 4) ? 1 : medium.memory_alignment;
  plan.cache = random_.chance(kHalf) ? CacheMode::kWritethrough : CacheMode::kWriteback;
  if (!medium.block_device) plan.shared_flush_depth = one_of<uint32_t>({0, 1, 4});
  plan.on_error = random_.chance(kHalf / 2) ? ErrorPolicy::kPause : ErrorPolicy::kReport;
  if (random_.chance(kHalf / 4)) {
    plan.limit = {.requests_per_second = 200'000, .bytes_per_second = 0, .burst_seconds = 20e-6};
  }
  GuestDriver::Config& driver = plan.driver;
  driver.queues = static_cast<uint16_t>(1 + random_.below(3));
  driver.queue_size = one_of<uint16_t>({64, 128, 256});
  driver.depth = 1 + random_.below(std::min(16U, driver.queue_size / GuestDriver::kChainParts));
  driver.features = ~0ULL;
  if (random_.chance(kHalf)) driver.features &= ~kVirtioFEventIdx;
  if (random_.chance(kHalf / 2)) driver.features &= ~kVirtioFIndirectDesc;
  if (random_.chance(kHalf / 4)) driver.features &= ~kBlkConfigWce;
  if (random_.chance(kHalf / 4)) driver.features &= ~kBlkFlush;
  driver.odd_buffers = random_.chance(kHalf);
  return plan;
}

SimEngine::Config RandomRun::draw_engine() {
  SimEngine::Config engine;
  engine.seed = random_.next();
  engine.quantum_ns = one_of<int64_t>({1, 1000, 4000});
  engine.stir = one_of<uint32_t>({0, kHalf / 2, kHalf});
  engine.rules = config_.lies;
  SimRates& sync = engine.rates[static_cast<size_t>(IoOpKind::kSync)];
  if (trouble_ == Trouble::kFlushes) sync = {.error = kHalf / 8, .slow = kHalf / 8};
  if (trouble_ == Trouble::kNone || trouble_ == Trouble::kFlushes) return engine;
  const uint32_t unit = trouble_ == Trouble::kMuch ? 2000 : 200;
  for (SimRates& rates : engine.rates) {
    rates = {.error = unit, .retry = 2 * unit, .shorter = 2 * unit, .slow = unit};
  }
  // A flush that fails is the end of flushes: often enough, but not soon.
  sync.error = unit / 4;
  return engine;
}

void RandomRun::live(bool recover) {
  Machine::Config config{.engine = draw_engine(), .disks = plans_, .decorate = config_.decorate};
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
    if (machine.driver(disk).has_room()) ask(machine.driver(disk), disk);
  }
  for (uint32_t i = 0; i < plans_.size(); ++i) machine.driver(i).publish();
  const int64_t now_ns = machine.engine().now_ns();
  machine.turn(one_of<int64_t>({kNoWait, now_ns + 500, kForever, kForever}));
}

void RandomRun::ask(GuestDriver& driver, uint32_t disk) {
  if (random_.chance(kHalf / 16)) {
    driver.ask_something_else();
  } else {
    driver.ask(draw_request(disk));
  }
}

GuestDriver::Ask RandomRun::draw_request(uint32_t disk) {
  GuestDriver::Ask ask;
  const uint32_t what = random_.below(32);
  ask.op = what < 12   ? BlockOp::kRead
           : what < 26 ? BlockOp::kWrite
           : what < 29 ? BlockOp::kFlush
           : what < 31 ? BlockOp::kWriteZeroes
                       : BlockOp::kDiscard;
  ask.queue = static_cast<uint16_t>(random_.below(plans_[disk].driver.queues));
  if (ask.op == BlockOp::kFlush) return ask;
  const uint32_t blocks = plans_[disk].medium.blocks;
  ask.blocks = 1 + random_.below(random_.chance(kHalf) ? 2 : 8);
  ask.first = random_.below(blocks - ask.blocks + 1);
  ask.unmap = ask.op == BlockOp::kWriteZeroes && random_.chance(kHalf);
  return ask;
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
