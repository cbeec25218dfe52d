// PlantedEngine: an engine decorator with one bug against durability, to show that a test of
// durability catches it. Never part of what is shipped; see tests/lab/planted_vm.cc and
// scripts/crash.sh --planted.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "blockdev/io_engine.h"

namespace plumb {

enum class PlantedBug : uint8_t {
  kNone,
  kNoDsync,           // a write that must be durable loses its RWF_DSYNC
  kEarlyCompletion,   // a write completes before it was sent: see PlantedEngine::kWritesHeldBack
  kDroppedFlush,      // a flush completes without being sent
  kZeroWithoutFlush,  // the first flush after a discard or write-zeroes is not sent
};

// By these names they are chosen on a command line or in the environment.
inline constexpr std::array<std::pair<std::string_view, PlantedBug>, 5> kPlantedBugs{{
    {"none", PlantedBug::kNone},
    {"no-dsync", PlantedBug::kNoDsync},
    {"early-completion", PlantedBug::kEarlyCompletion},
    {"dropped-flush", PlantedBug::kDroppedFlush},
    {"zero-without-flush", PlantedBug::kZeroWithoutFlush},
}};

// Nothing when no bug has that name.
std::optional<PlantedBug> planted_bug(std::string_view name);

// Runs on the I/O thread of the engine below it, as every engine.
class PlantedEngine final : public IoEngine {
 public:
  // With kEarlyCompletion a write is sent, from a copy, when this many newer ones came; what is
  // still held back is lost when the engine goes, as with the process. A read meanwhile finds the
  // old content.
  static constexpr size_t kWritesHeldBack = 32;

  PlantedEngine(std::unique_ptr<IoEngine> below, PlantedBug bug);
  ~PlantedEngine() override;
  PlantedEngine(const PlantedEngine&) = delete;
  PlantedEngine& operator=(const PlantedEngine&) = delete;

  const char* name() const override { return below_->name(); }
  IoFile add_file(int fd) override { return below_->add_file(fd); }
  void remove_file(IoFile file) override;
  Result<> add_memory(std::span<const iovec> regions) override {
    return below_->add_memory(regions);
  }
  void remove_memory() override;
  void submit(IoOp& op) override;
  void watch(uint32_t token, int fd, Trigger trigger) override {
    below_->watch(token, fd, trigger);
  }
  void unwatch(uint32_t token) override { below_->unwatch(token); }
  void wait(int64_t until_ns, IoEvents& events) override;
  bool ready() const override { return !events_.completed.empty() || below_->ready(); }
  int64_t now_ns() const override { return below_->now_ns(); }

 private:
  struct HeldWrite;

  void complete(IoOp& op, int64_t result);
  void complete_early(IoOp& op);
  void wait_below(int64_t until_ns);
  void await_late_writes();

  const std::unique_ptr<IoEngine> below_;
  const PlantedBug bug_;
  IoEvents events_;  // until the next wait() hands them out
  std::deque<std::unique_ptr<HeldWrite>> held_;
  size_t sent_late_ = 0;      // held writes that are now in flight
  bool range_begun_ = false;  // a discard or write-zeroes, since the last flush
};

}  // namespace plumb
