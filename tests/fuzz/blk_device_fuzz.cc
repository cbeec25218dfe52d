// Fuzzes VirtioBlk as a whole, over a disk in memory that may keep requests or be held: a driver
// with valid queues and rare faults, and resets at any time. What must hold: every chain comes back
// once and says how its request ended, a reset returns whatever is in flight, and after it the
// device works. All on one thread, which turns the I/O loop.
#include <unistd.h>

#include <array>
#include <deque>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/io_engine.h"
#include "blockdev/mem_device.h"
#include "tests/fuzz/fuzz_requests.h"
#include "vmm/virtio/blk.h"

namespace {

using namespace plumb;

constexpr uint64_t kRam = 2U << 20U;
constexpr uint16_t kQueues = 2;
constexpr uint64_t kQueueMemory = 0x80000;
constexpr int kMaxSteps = 40;
// Turns of the loop in which all that was asked for must be done.
constexpr int kMaxTurns = 100;

// Memory that keeps requests back while it is told to; all of them in the order they came.
class KeepDevice final : public BlockDevice {
 public:
  KeepDevice(const BlockInfo& info, IoThread& thread) : memory_(info, thread) {}
  const BlockInfo& info() const override { return memory_.info(); }
  void submit(BlockRequest& request) override {
    kept_.push_back(&request);
    if (!keep) let_go(kept_.size());
  }
  void let_go(size_t count) {
    for (; count > 0 && !kept_.empty(); --count) {
      memory_.submit(*kept_.front());
      kept_.pop_front();
    }
  }
  void clear() { std::memset(memory_.bytes().data(), 0, memory_.bytes().size()); }

  bool keep = false;

 private:
  MemDevice memory_;
  std::deque<BlockRequest*> kept_;
};

// Knows doorbells only: a disk in memory gives an engine nothing to do.
class DoorbellEngine final : public IoEngine {
 public:
  DoorbellEngine() { doorbells_.fill(-1); }
  const char* name() const override { return "doorbells"; }
  IoFile add_file(int fd) override { return {.fd = fd}; }
  void remove_file(IoFile) override {}
  Result<> add_memory(std::span<const iovec>) override { return {}; }
  void remove_memory() override {}
  void submit(IoOp&) override { ENSURE(false); }
  void watch(uint32_t token, int fd, Trigger) override { doorbells_.at(token) = fd; }
  void unwatch(uint32_t token) override { doorbells_.at(token) = -1; }
  void wait(int64_t, IoEvents& events) override {
    for (uint32_t token = 0; token < doorbells_.size(); ++token) {
      if (doorbells_[token] < 0) continue;
      uint64_t count = 0;
      if (::read(doorbells_[token], &count, sizeof(count)) > 0) events.ready.push_back(token);
    }
  }
  bool ready() const override { return false; }
  int64_t now_ns() const override { return 0; }

 private:
  std::array<int, 8> doorbells_{};  // by token: two queues', and what the loop keeps for itself
};

// Made once.
struct Machine {
  std::unique_ptr<GuestMemory> memory = GuestMemory::create({.size_bytes = kRam}).value();
  std::unique_ptr<IoThread> thread = IoThread::on_caller(std::make_unique<DoorbellEngine>());
  KeepDevice* device = nullptr;
  Disk disk{{.id = "fuzz"}, make_device(), *thread};
  VirtioBlk blk{disk, kQueues};
  UniqueFd kicks[kQueues] = {make_eventfd().value(), make_eventfd().value()};

  std::unique_ptr<BlockDevice> make_device() {
    BlockInfo info;
    info.size_bytes = kQueues * FuzzRequests::kSectors * kBlkSectorBytes;
    info.max_discard_bytes = info.max_write_zeroes_bytes = 1U << 20U;
    auto made = std::make_unique<KeepDevice>(info, *thread);
    device = made.get();
    return made;
  }
};

Machine& machine() {
  static auto* made = new Machine;  // as long as the process
  return *made;
}

void on_thread(IoThread::Task task) { machine().thread->run(std::move(task)); }

// Lets everything go after some more turns of the loop, so that a reset has begun.
void let_go_later(int turns) {
  machine().thread->post([turns] {
    if (turns > 0) return let_go_later(turns - 1);
    machine().device->keep = false;
    machine().device->let_go(SIZE_MAX);
  });
}

struct Round : VirtioInterrupt {
  explicit Round(FuzzedDataProvider& data) : input(data) {}

  void signal_queue(uint16_t queue) override { ENSURE(queue < kQueues); }
  void signal_config() override {}
  void needs_reset() override { reset_needed = true; }

  void start() {
    uint64_t features = kVirtioFVersion1;
    const bool indirect = input.ConsumeBool();
    if (indirect) features |= kVirtioFIndirectDesc;
    if (input.ConsumeBool()) features |= kVirtioFEventIdx;
    content.fill(0);
    broken = false;
    known = true;
    std::vector<VirtioQueueSetup> setups;
    for (uint16_t i = 0; i < kQueues; ++i) {
      const GuestAddress base = i * kQueueMemory;
      const auto size = static_cast<uint16_t>(1U << input.ConsumeIntegralInRange<unsigned>(0, 5));
      const uint64_t first = i * FuzzRequests::kSectors;
      requests[i].reset();
      rings[i].emplace(input, *machine().memory, base, size, indirect, broken);
      requests[i].emplace(input, *machine().memory, *rings[i], base + FuzzRing::kBytes, first,
                          std::span(content).subspan(first, FuzzRequests::kSectors), known);
      setups.push_back(rings[i]->setup());
      setups.back().kick_fd = machine().kicks[i].get();
    }
    reset_needed = false;
    on_thread([] { machine().device->clear(); });
    ENSURE(machine()
               .blk
               .activate({.features = features,
                          .queues = setups,
                          .memory = machine().memory.get(),
                          .interrupt = this})
               .ok());
  }

  void step() {
    const auto queue = input.ConsumeIntegralInRange<uint16_t>(0, kQueues - 1);
    switch (input.ConsumeIntegralInRange<int>(0, 11)) {
      case 7:
        signal_eventfd(machine().kicks[queue].get());
        break;
      case 8:
        serve_all();
        break;
      case 9:
        on_thread([keep = input.ConsumeBool(), count = input.ConsumeIntegral<uint8_t>()] {
          machine().device->keep = keep;
          machine().device->let_go(count);
        });
        break;
      case 10:
        hold(input.ConsumeBool());
        break;
      case 11:
        if (input.ConsumeIntegral<uint8_t>() > 32) break;
        reset();
        start();
        break;
      default:
        requests[queue]->send();
        break;
    }
  }

  // Nothing is kept or held any more, every doorbell rings: then all must come back.
  void serve_all() {
    hold(false);
    let_go_later(0);
    for (const UniqueFd& kick : machine().kicks) signal_eventfd(kick.get());
    for (int turns = 0; turns < kMaxTurns && waiting() > 0; ++turns) {
      on_thread([] {});
      for (std::optional<FuzzRequests>& one : requests) one->collect();
    }
    ENSURE(waiting() == 0);
    ENSURE(!reset_needed || broken);
  }

  // As long as the driver has broken nothing.
  unsigned waiting() const { return broken ? 0 : requests[0]->waiting() + requests[1]->waiting(); }

  void hold(bool on) {
    if (on == held) return;
    held = on;
    on_thread([on] {
      if (on) {
        machine().disk.hold(kForever, [](Result<>) {});
      } else {
        machine().disk.release();
      }
    });
  }

  // With requests kept by the device, parked by a hold, or waiting in the ring.
  void reset() {
    let_go_later(input.ConsumeIntegralInRange<int>(0, 4));
    machine().blk.reset();
    hold(false);
    on_thread([] { ENSURE(machine().disk.in_flight() == 0); });
  }

  FuzzedDataProvider& input;
  std::array<uint8_t, kQueues * FuzzRequests::kSectors> content{};
  std::optional<FuzzRing> rings[kQueues];
  std::optional<FuzzRequests> requests[kQueues];
  std::atomic<bool> reset_needed = false;
  bool held = false;
  bool broken = false;  // a word of a ring
  bool known = true;    // what is on the disk
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const bool quiet = (log::configure("fuzz", log::Level::kError), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, bytes);
  Round round(input);
  round.start();
  for (int steps = 0; steps < kMaxSteps && input.remaining_bytes() > 0; ++steps) round.step();
  round.serve_all();
  round.reset();
  return 0;
}
