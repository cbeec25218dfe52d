#include "tests/simulation/draws.h"

#include <algorithm>

namespace plumb::simulation {

DiskPlan Draws::disk() {
  DiskPlan plan;
  SimDevice::Config& medium = plan.medium;
  medium.block_size = random.chance(kHalf / 2) ? 4096 : 512;
  medium.blocks = 16 + random.below(49);
  medium.memory_alignment = one_of<uint32_t>({1, 4, 512});
  medium.cache_blocks = one_of<uint32_t>({8, 64, 512});
  medium.block_device = random.chance(kHalf);
  medium.can_punch = random.chance(3 * kHalf / 2);
  medium.can_zero_range = random.chance(kHalf);
  // Now and then the facts promise more than is kept: then the kernel says EINVAL.
  plan.told_alignment = random.chance(kHalf / 4) ? 1 : medium.memory_alignment;
  plan.cache = random.chance(kHalf) ? CacheMode::kWritethrough : CacheMode::kWriteback;
  if (!medium.block_device) plan.shared_flush_depth = one_of<uint32_t>({0, 1, 4});
  plan.on_error = random.chance(kHalf / 2) ? ErrorPolicy::kPause : ErrorPolicy::kReport;
  if (random.chance(kHalf / 4)) {
    plan.limit = {.requests_per_second = 200'000, .bytes_per_second = 0, .burst_seconds = 20e-6};
  }
  GuestDriver::Config& driver = plan.driver;
  driver.queues = static_cast<uint16_t>(1 + random.below(3));
  driver.queue_size = one_of<uint16_t>({64, 128, 256});
  driver.depth = 1 + random.below(std::min(16U, driver.queue_size / GuestDriver::kChainParts));
  driver.features = ~0ULL;
  if (random.chance(kHalf)) driver.features &= ~kVirtioFEventIdx;
  if (random.chance(kHalf / 2)) driver.features &= ~kVirtioFIndirectDesc;
  if (random.chance(kHalf / 4)) driver.features &= ~kBlkConfigWce;
  if (random.chance(kHalf / 4)) driver.features &= ~kBlkFlush;
  driver.odd_buffers = random.chance(kHalf);
  return plan;
}

Trouble Draws::trouble() {
  return one_of(
      {Trouble::kNone, Trouble::kLittle, Trouble::kMuch, Trouble::kPaths, Trouble::kFlushes});
}

SimEngine::Config Draws::engine(Trouble trouble, const std::vector<SimRule>& lies) {
  SimEngine::Config engine;
  engine.seed = random.next();
  engine.quantum_ns = one_of<int64_t>({1, 1000, 4000});
  engine.stir = one_of<uint32_t>({0, kHalf / 2, kHalf});
  engine.rules = lies;
  SimRates& sync = engine.rates[static_cast<size_t>(IoOpKind::kSync)];
  if (trouble == Trouble::kFlushes) sync = {.error = kHalf / 8, .slow = kHalf / 8};
  if (trouble == Trouble::kNone || trouble == Trouble::kFlushes) return engine;
  const uint32_t unit = trouble == Trouble::kMuch ? 2000 : 200;
  for (SimRates& rates : engine.rates) {
    rates = {.error = unit, .retry = 2 * unit, .shorter = 2 * unit, .slow = unit};
  }
  // A flush that fails is the end of flushes: often enough, but not soon.
  sync.error = unit / 4;
  return engine;
}

void Draws::ask(GuestDriver& driver, const DiskPlan& plan) {
  if (random.chance(kHalf / 16)) {
    driver.ask_something_else();
  } else {
    driver.ask(request(plan));
  }
}

GuestDriver::Ask Draws::request(const DiskPlan& plan) {
  GuestDriver::Ask ask;
  const uint32_t what = random.below(32);
  ask.op = what < 12   ? BlockOp::kRead
           : what < 26 ? BlockOp::kWrite
           : what < 29 ? BlockOp::kFlush
           : what < 31 ? BlockOp::kWriteZeroes
                       : BlockOp::kDiscard;
  ask.queue = static_cast<uint16_t>(random.below(plan.driver.queues));
  if (ask.op == BlockOp::kFlush) return ask;
  const uint32_t blocks = plan.medium.blocks;
  ask.blocks = 1 + random.below(random.chance(kHalf) ? 2 : 8);
  ask.first = random.below(blocks - ask.blocks + 1);
  ask.unmap = ask.op == BlockOp::kWriteZeroes && random.chance(kHalf);
  return ask;
}

}  // namespace plumb::simulation
