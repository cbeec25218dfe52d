// SimEngine: an IoEngine over simulated devices, in virtual time: what the block path would meet on
// a bad day, repeated from a seed. For IoThread::on_caller; one thread.
//
// An operation takes effect when it completes, or block by block before (stir). Completions come in
// any order. Nothing here looks at a clock or at the kernel: the same seed and the same calls give
// the same run.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "base/unique_fd.h"
#include "blockdev/io_engine.h"
#include "blockdev/limits.h"
#include "blockdev/sim_device.h"
#include "blockdev/sim_random.h"

namespace plumb {

enum class SimFault : uint8_t {
  kNone,
  kError,  // fails. A write or range may have changed any of its blocks; a flush may have lost
           // what it should have moved. EINTR and EAGAIN: nothing happened
  kShort,  // moves a part, and says so
  kLost,   // a lie: completes, and nothing happened
  kMisdirected,  // a lie: a write lands on the block behind
};

// Chances of 65,536 for each operation of a kind.
struct SimRates {
  uint32_t error = 0;
  uint32_t retry = 0;  // EINTR or EAGAIN
  uint32_t shorter = 0;
  uint32_t lost = 0;
  uint32_t misdirected = 0;
  uint32_t slow = 0;  // takes a hundred times as long
};

// A fault by script: for operations of `kind` that touch the blocks, after `skip` of them, `times`
// times.
struct SimRule {
  static constexpr uint32_t kForEver = UINT32_MAX;
  IoOpKind kind = IoOpKind::kRead;
  SimFault fault = SimFault::kError;
  int error = 5;  // EIO
  uint32_t first_block = 0;
  uint32_t blocks = UINT32_MAX;
  uint32_t skip = 0;
  uint32_t times = 1;
};

// Something happened to an operation, and with it, perhaps, to the blocks named.
struct SimStep {
  enum class What : uint8_t { kSubmitted, kStirred, kCompleted };
  What what = What::kSubmitted;
  const IoOp* op = nullptr;  // of kCompleted: with its result
  uint32_t device = 0;       // in the order attached
  uint32_t first_block = 0;
  uint32_t blocks = 0;
};

class SimObserver {
 public:
  virtual ~SimObserver() = default;
  virtual void stepped(const SimStep& step) = 0;
};

class SimEngine final : public IoEngine {
 public:
  static constexpr size_t kKinds = 6;

  struct Config {
    uint64_t seed = 1;
    int64_t latency_ns = 2000;  // up to twice as long, drawn
    int64_t quantum_ns = 1;     // completions come at multiples of it: several at once
    uint32_t stir = 0;          // the chance of 65,536, at each wait, that something happens early
    std::array<SimRates, kKinds> rates{};  // by IoOpKind
    std::vector<SimRule> rules;
    // Given, it says which of `count` operations completes next, and time decides nothing.
    std::function<size_t(size_t count)> choose;
    SimObserver* observer = nullptr;
  };

  explicit SimEngine(Config config);

  // Makes `device`, which outlives the engine, known. The descriptor stands for its file.
  UniqueFd attach(SimDevice& device);
  SimDevice& device(uint32_t index) { return *devices_[index].device; }
  uint32_t devices() const { return static_cast<uint32_t>(devices_.size()); }
  // As if the eventfd had been signalled.
  void signal(int fd);

  // While it is lost, all operations fail.
  void lose_path() { path_lost_ = true; }
  void find_path() { path_lost_ = false; }
  bool path_lost() const { return path_lost_; }
  void add_rule(const SimRule& rule) { config_.rules.push_back(rule); }

  // Now: the devices keep what their caches and the operations in flight happen to leave. From here
  // on every operation fails and none has an effect, so that the stack above can be taken down.
  void lose_power();
  bool powered() const { return powered_; }

  // Operations in flight of one device, or of all.
  uint32_t in_flight(uint32_t device) const;
  size_t in_flight() const { return flights_.size(); }
  // The last wait() had no end: nothing was in flight, nothing watched had come, no time was named.
  bool stuck() const { return stuck_; }
  uint64_t faults() const { return faults_; }

  // Calls `see(const std::byte*, mark)` with everything that a loss of power now may leave of the
  // block: SimDevice::visit_outcomes(), then what is in flight, marked above kInFlight.
  static constexpr uint64_t kInFlight = 1ULL << 63U;
  template <typename See>
  void visit_outcomes(uint32_t device, uint32_t block, See see) {
    devices_[device].device->visit_outcomes(block, see);
    for (const Flight& flight : flights_) {
      if (changes(flight, device, block)) see(bytes_of(flight, block), flight.mark);
    }
  }

  const char* name() const override { return "simulation"; }
  IoFile add_file(int fd) override;
  void remove_file(IoFile file) override;
  Result<> add_memory(std::span<const iovec>) override { return {}; }
  void remove_memory() override {}
  void submit(IoOp& op) override;
  void watch(uint32_t token, int fd, Trigger trigger) override;
  void unwatch(uint32_t token) override;
  void wait(int64_t until_ns, IoEvents& events) override;
  bool ready() const override;
  int64_t now_ns() const override { return now_ns_; }

 private:
  struct File {
    int fd = -1;
    SimDevice* device = nullptr;
  };
  struct Watch {
    int fd = -1;  // -1: not in use
    bool signalled = false;
  };
  // An operation in flight.
  struct Flight {
    IoOp* op = nullptr;
    uint32_t device = 0;
    uint32_t first = 0;    // block
    uint32_t blocks = 0;   // as asked for, and perhaps behind the end
    uint64_t done = 0;     // of the first 64 blocks: those that it has changed already
    uint64_t mark = 0;     // of what it changes while in flight
    uint64_t flushes = 0;  // kSync: the newest mark that it moves
    int64_t due_ns = 0;
    int64_t refused = 0;  // a negative errno: it is nothing that the kernel takes
    uint64_t bytes = 0;   // asked for
    SimFault fault = SimFault::kNone;
    int error = 0;
  };

  static bool writes(IoOpKind kind) { return kind != IoOpKind::kRead && kind != IoOpKind::kSync; }
  bool changes(const Flight& flight, uint32_t device, uint32_t block) const;
  const std::byte* bytes_of(const Flight& flight, uint32_t block);

  int64_t refusal(const Flight& flight) const;
  void draw_fault(Flight& flight);
  bool follow_rules(Flight& flight);
  size_t next_due() const;
  void take_signals(IoEvents& events);
  void stir();
  void complete(size_t index, IoEvents& events);
  void clip(Flight& flight) const;
  int64_t perform(Flight& flight);
  int64_t fail(Flight& flight, int error);
  int64_t read(const Flight& flight);
  int64_t write(Flight& flight);
  int64_t change_range(Flight& flight);
  int64_t sync(const Flight& flight);
  void change(Flight& flight, uint32_t block, uint64_t mark, bool durable);
  void end_change(Flight& flight, uint32_t blocks, bool durable);
  void tell(SimStep::What what, const Flight& flight, uint32_t first, uint32_t blocks);

  Config config_;
  SimRandom random_;
  std::vector<File> devices_;
  std::vector<Flight> flights_;
  std::array<Watch, kWatches> watches_;
  uint32_t watch_end_ = 0;
  bool any_signal_ = false;
  bool path_lost_ = false;
  bool powered_ = true;
  bool stuck_ = false;
  int64_t now_ns_ = 1;
  uint64_t submitted_ = 0;
  uint64_t completed_ = 0;
  uint64_t faults_ = 0;
  std::vector<std::byte> scratch_;  // a block
};

}  // namespace plumb
