#include "tests/simulation/enumeration.h"

#include <algorithm>
#include <cstring>

namespace plumb::simulation {
namespace {

constexpr uint32_t kBlocks = 6;
constexpr uint32_t kBlockSize = 512;

struct Letter {
  const char* name;
  BlockOp op;
  uint32_t first;
  uint32_t blocks;
  bool durable;  // else, where the cache can be switched, not
  bool unmap = false;
};

// Two pairs that overlap, and one apart.
constexpr Letter kAlphabet[] = {
    {"read 0-2", BlockOp::kRead, 0, 3, true},
    {"write 0-1", BlockOp::kWrite, 0, 2, true},
    {"write 1-2", BlockOp::kWrite, 1, 2, true},
    {"flush", BlockOp::kFlush, 0, 0, true},
    {"discard 0-1", BlockOp::kDiscard, 0, 2, true},
    {"zero 1-2", BlockOp::kWriteZeroes, 1, 2, true},
    {"write 4", BlockOp::kWrite, 4, 1, true},
    {"cached write 0-1", BlockOp::kWrite, 0, 2, false},
    {"cached write 1-2", BlockOp::kWrite, 1, 2, false},
    {"cached write 4", BlockOp::kWrite, 4, 1, false},
    {"cached discard 0-1", BlockOp::kDiscard, 0, 2, false},
    {"cached unmap 1-2", BlockOp::kWriteZeroes, 1, 2, false, true},
};
constexpr size_t kDurableLetters = 7;

// The choices of one schedule, and then the next schedule's: depth first through all of them.
class Choices {
 public:
  size_t pick(size_t count) {
    if (count == 1) return 0;
    if (at_ == taken_.size()) taken_.push_back({0, count});
    return taken_[at_++].choice;
  }
  // False when there is no other.
  bool next() {
    at_ = 0;
    while (!taken_.empty() && taken_.back().choice + 1 == taken_.back().count) taken_.pop_back();
    if (taken_.empty()) return false;
    ++taken_.back().choice;
    return true;
  }

 private:
  struct Taken {
    size_t choice;
    size_t count;
  };
  std::vector<Taken> taken_;
  size_t at_ = 0;
};

DiskPlan plan_of(const EnumerationConfig& config, CacheMode cache) {
  DiskPlan plan;
  plan.medium.block_size = kBlockSize;
  plan.medium.blocks = kBlocks;
  plan.medium.cache_blocks = 64;
  plan.medium.block_device = config.block_device;
  plan.shared_flush_depth = config.shares_flushes ? 1 : 0;
  plan.cache = cache;
  plan.driver.depth = 3;
  plan.driver.queue_size = 32;
  plan.driver.max_blocks = kBlocks;
  plan.driver.odd_buffers = false;
  plan.driver.features &= ~kVirtioFIndirectDesc;  // whose tables would use up memory
  return plan;
}

// A machine that boots from what a crash has left, and reads it.
class Survivor {
 public:
  Survivor(const EnumerationConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests)
      : plan_(plan_of(config, CacheMode::kWritethrough)), device_(plan_.medium) {
    checker_.add_disk(device_);
    machine_.emplace(Machine::Config{.engine = {}, .disks = {plan_}, .decorate = {}}, guests,
                     checker_);
  }
  std::byte* block(uint32_t block) { return device_.write_medium(block); }
  // Against what `before` allowed.
  const std::optional<Violation>& read(const Checker& before) {
    checker_.adopt(0, before);
    machine_->recover();
    return checker_.violation();
  }

 private:
  DiskPlan plan_;
  SimDevice device_;
  Checker checker_;
  std::optional<Machine> machine_;
};

class Enumeration {
 public:
  Enumeration(const EnumerationConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests,
              std::vector<std::unique_ptr<FakeGuest>>& survivors_guests)
      : plan_(plan_of(config, config.cache)),
        device_(plan_.medium),
        letters_(config.cache == CacheMode::kWriteback ? std::size(kAlphabet) : kDurableLetters),
        survivor_(config, survivors_guests) {
    checker_.add_disk(device_);
    Machine::Config machine{.engine = {}, .disks = {plan_}, .decorate = config.decorate};
    machine.engine.choose = [this](size_t count) { return choices_.pick(count); };
    machine_.emplace(std::move(machine), guests, checker_);
    checker_.at_crash_points([this](uint32_t) { crash(); });
  }

  EnumerationResult run(uint32_t length) {
    for (uint32_t count = 1; count <= length; ++count) {
      std::vector<size_t> sequence(count, 0);
      do {
        // Bit i: request i + 1 is sent when the one before it has ended.
        for (uint32_t pauses = 0; pauses < 1U << (count - 1); ++pauses) {
          if (!run_sequence(sequence, pauses)) return result(sequence, pauses);
        }
      } while (next(sequence));
    }
    return result({}, 0);
  }

 private:
  bool next(std::vector<size_t>& sequence) const {
    for (size_t& letter : sequence) {
      if (++letter < letters_) return true;
      letter = 0;
    }
    return false;
  }

  // Through all orders of completion; false when a rule was broken.
  bool run_sequence(const std::vector<size_t>& sequence, uint32_t pauses) {
    ++result_.sequences;
    do {
      ++result_.schedules;
      checker_.refill(0);
      GuestDriver& driver = machine_->driver(0);
      for (size_t i = 0; i < sequence.size(); ++i) {
        const Letter& letter = kAlphabet[sequence[i]];
        if (i > 0 && (pauses >> (i - 1) & 1) != 0) machine_->finish();
        if (plan_.cache == CacheMode::kWriteback) driver.set_writeback(!letter.durable);
        driver.ask({.op = letter.op,
                    .first = letter.first,
                    .blocks = letter.blocks,
                    .unmap = letter.unmap});
        driver.publish();
        machine_->turn(kNoWait);
      }
      machine_->finish();
      if (checker_.violation()) return false;
    } while (choices_.next());
    return true;
  }

  void crash() {
    marks_.clear();
    for (uint32_t block = 0; block < kBlocks; ++block) {
      machine_->engine().visit_outcomes(0, block, [this](const std::byte*, uint64_t mark) {
        const bool known = std::find(marks_.begin(), marks_.end(), mark) != marks_.end();
        if (mark != 0 && !known) marks_.push_back(mark);
      });
    }
    crash_with([](uint64_t) { return false; });
    if (marks_.size() > 1) crash_with([](uint64_t) { return true; });
    for (const uint64_t one : marks_) crash_with([one](uint64_t mark) { return mark == one; });
  }

  // What is on the medium stays; of the rest what `survives`.
  template <typename Survives>
  void crash_with(Survives survives) {
    ++result_.crashes;
    for (uint32_t block = 0; block < kBlocks; ++block) {
      std::byte* to = survivor_.block(block);
      machine_->engine().visit_outcomes(0, block, [&](const std::byte* bytes, uint64_t mark) {
        if (mark == 0 || survives(mark)) std::memcpy(to, bytes, kBlockSize);
      });
    }
    const std::optional<Violation>& found = survivor_.read(checker_);
    if (found) checker_.violate(found->invariant, found->disk, found->text);
  }

  EnumerationResult result(const std::vector<size_t>& sequence, uint32_t pauses) {
    result_.crash_points = checker_.counters().crash_points;
    result_.violation = checker_.violation();
    for (size_t i = 0; i < sequence.size(); ++i) {
      if (i > 0) result_.where += (pauses >> (i - 1) & 1) != 0 ? ", then " : ", with ";
      result_.where += kAlphabet[sequence[i]].name;
    }
    return result_;
  }

  DiskPlan plan_;
  SimDevice device_;
  const size_t letters_;
  Survivor survivor_;
  Checker checker_;
  Choices choices_;
  std::optional<Machine> machine_;
  std::vector<uint64_t> marks_;
  EnumerationResult result_;
};

}  // namespace

EnumerationResult enumerate(const EnumerationConfig& config,
                            std::vector<std::unique_ptr<FakeGuest>>& guests) {
  std::vector<std::unique_ptr<FakeGuest>> survivors_guests = make_guests(1);
  return Enumeration(config, guests, survivors_guests).run(config.length);
}

}  // namespace plumb::simulation
