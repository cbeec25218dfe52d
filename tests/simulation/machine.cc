#include "tests/simulation/machine.h"

#include <fmt/core.h>

#include <algorithm>

namespace plumb::simulation {
namespace {

// In so many turns all that is outstanding ends, whatever trouble there is.
constexpr uint32_t kMostTurns = 100'000;

FileFacts facts_of(const DiskPlan& plan) {
  FileFacts facts;
  facts.block_device = plan.medium.block_device;
  facts.shared_flush_depth = plan.shared_flush_depth;
  facts.info.size_bytes = uint64_t{plan.medium.blocks} * plan.medium.block_size;
  facts.info.logical_block_size = plan.medium.block_size;
  facts.info.physical_block_size = 4096;
  facts.info.memory_alignment = plan.told_alignment;
  facts.info.volatile_cache = true;
  facts.info.discard_granularity = plan.medium.block_size;
  facts.info.max_discard_bytes = 1U << 30U;
  facts.info.max_write_zeroes_bytes = 1U << 30U;
  return facts;
}

}  // namespace

std::vector<std::unique_ptr<FakeGuest>> make_guests(size_t disks) {
  std::vector<std::unique_ptr<FakeGuest>> guests;
  for (size_t i = 0; i < disks; ++i) guests.push_back(std::make_unique<FakeGuest>());
  return guests;
}

Machine::Machine(Config config, std::vector<std::unique_ptr<FakeGuest>>& guests, Checker& checker)
    : checker_(checker) {
  config.engine.observer = &checker;
  auto made = std::make_unique<SimEngine>(std::move(config.engine));
  engine_ = made.get();
  std::vector<UniqueFd> files;
  for (uint32_t i = 0; i < config.disks.size(); ++i) {
    files.push_back(engine_->attach(checker.device(i)));
  }
  checker.set_engine(engine_);
  std::unique_ptr<IoEngine> engine = std::move(made);
  if (config.decorate) engine = config.decorate(std::move(engine), *engine_);
  thread_ = IoThread::on_caller(std::move(engine));
  for (uint32_t i = 0; i < config.disks.size(); ++i) {
    const DiskPlan& plan = config.disks[i];
    disks_.push_back(std::make_unique<Disk>(
        Disk::Config{.id = fmt::format("disk{}", i),
                     .serial = "",
                     .cache = plan.cache,
                     .on_error = plan.on_error,
                     .limit = plan.limit,
                     .failed = {}},
        std::make_unique<FileDevice>(
            FileDevice::Config{.fd = std::move(files[i]), .label = fmt::format("disk {}", i)},
            facts_of(plan), *thread_),
        *thread_));
    drivers_.push_back(
        std::make_unique<GuestDriver>(plan.driver, *guests[i], *disks_[i], i, *engine_, checker));
    checker.activated(i);
    drivers_[i]->start();
  }
}

Machine::~Machine() {
  lose_power();
  drivers_.clear();
  disks_.clear();
  checker_.set_engine(nullptr);
}

void Machine::lose_power() {
  if (!engine_->powered()) return;
  checker_.thawed();
  engine_->lose_power();
  release();
  for (uint32_t i = 0; i < disks_.size(); ++i) checker_.crashed(i);
}

uint32_t Machine::outstanding() const {
  uint32_t sum = 0;
  for (const auto& driver : drivers_) sum += driver->outstanding();
  return sum;
}

void Machine::turn(int64_t until_ns) {
  thread_->turn(until_ns);
  for (const auto& driver : drivers_) driver->collect();
}

void Machine::finish() {
  // What is due at once needs a turn or two; only then is nothing on its way.
  uint32_t turns = 0;
  for (int idle = 0; outstanding() > 0 && !checker_.violation();) {
    retry();
    turn(kForever);
    idle = engine_->stuck() ? idle + 1 : 0;
    if (idle < 4 && ++turns < kMostTurns) continue;
    for (uint32_t i = 0; i < drivers_.size(); ++i) {
      if (drivers_[i]->outstanding() == 0) continue;
      checker_.violate("I8", i,
                       fmt::format("{} requests never come back", drivers_[i]->outstanding()));
    }
  }
}

void Machine::recover() {
  for (uint32_t i = 0; i < drivers_.size(); ++i) {
    const SimDevice& device = checker_.device(i);
    const uint32_t step = drivers_[i]->max_blocks();
    for (uint32_t first = 0; first < device.blocks(); first += step) {
      const uint32_t blocks = std::min(step, device.blocks() - first);
      int attempts = 0;
      do {
        drivers_[i]->ask_survivors(first, blocks);
        drivers_[i]->publish();
        finish();
      } while (drivers_[i]->last_failed() && ++attempts < 8 && !checker_.violation());
      if (!drivers_[i]->last_failed()) continue;
      // The device does not let itself be read: what it has counts all the same.
      for (uint32_t block = first; block < first + blocks; ++block) {
        checker_.survived(i, block, device.current(block));
      }
    }
  }
}

void Machine::reset(size_t index) {
  drivers_[index]->reset();
  for (int i = 0; i < 4; ++i) turn(engine_->now_ns() + 10'000);
  drivers_[index]->check_untouched();
  checker_.activated(static_cast<uint32_t>(index));
  drivers_[index]->start();
}

void Machine::hold(int64_t deadline_ns) {
  holding_ = true;
  drained_ = 0;
  held_.assign(disks_.size(), true);
  for (size_t i = 0; i < disks_.size(); ++i) {
    disks_[i]->hold(deadline_ns,
                    [this, i](const Result<>& drained) { hold_drained(i, drained.ok()); });
  }
}

void Machine::hold_drained(size_t index, bool in_time) {
  held_[index] = in_time;
  if (in_time && ++drained_ == disks_.size()) checker_.frozen();
}

void Machine::release() {
  if (!std::exchange(holding_, false)) return;
  checker_.thawed();
  for (size_t i = 0; i < disks_.size(); ++i) {
    if (held_[i]) disks_[i]->release();
  }
}

void Machine::retry() {
  for (const auto& disk : disks_) disk->retry();
}

}  // namespace plumb::simulation
