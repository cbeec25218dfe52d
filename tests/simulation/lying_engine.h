// LyingEngine: an engine decorator with one bug, of kinds that PlantedEngine does not have: what a
// mistake in the block path, or an engine, could do. The checker must see each.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "blockdev/sim_engine.h"

namespace plumb::simulation {

enum class Lie : uint8_t {
  kSwallowedError,  // what failed is told as done
  kShortAsWhole,    // what moved a part is told as whole
  kNeverCompletes,  // one operation does not come back
  kLateWrite,       // a read writes to its buffers once more, later
  kOutsideRange,    // one write goes behind the end
  kStaleRead,       // a read brings what an earlier one had found
};

class LyingEngine final : public IoEngine {
 public:
  LyingEngine(std::unique_ptr<IoEngine> below, SimEngine& engine, Lie lie)
      : below_(std::move(below)), engine_(engine), lie_(lie) {}

  const char* name() const override { return below_->name(); }
  IoFile add_file(int fd) override { return below_->add_file(fd); }
  void remove_file(IoFile file) override { below_->remove_file(file); }
  Result<> add_memory(std::span<const iovec> regions) override {
    return below_->add_memory(regions);
  }
  void remove_memory() override { below_->remove_memory(); }
  void submit(IoOp& op) override;
  void watch(uint32_t token, int fd, Trigger trigger) override {
    below_->watch(token, fd, trigger);
  }
  void unwatch(uint32_t token) override { below_->unwatch(token); }
  void wait(int64_t until_ns, IoEvents& events) override;
  bool ready() const override { return below_->ready(); }
  int64_t now_ns() const override { return below_->now_ns(); }

 private:
  static constexpr uint64_t kLiesAt = 40;  // operations go well before

  void lie_about(IoOp& op);
  void write_late();
  void tell_old(const IoOp& op);

  const std::unique_ptr<IoEngine> below_;
  SimEngine& engine_;
  const Lie lie_;
  uint64_t operations_ = 0;
  IoOp* kept_ = nullptr;        // kNeverCompletes
  std::vector<iovec> buffers_;  // kLateWrite: of the last read
  int idle_waits_ = 0;
  std::map<std::pair<int, uint64_t>, std::vector<std::byte>> found_;  // kStaleRead: by file, offset
};

}  // namespace plumb::simulation
