// Fuzzes Virtqueue with a driver that builds valid chains and, rarely, breaks one word of them.
// What must hold: every buffer is inside RAM, no head is given twice, an error is final for the
// chain but never for us; and while nothing is broken, chains come as they were built, all of
// them, go back as they were pushed, and interrupt as section 2.7.7 has it.
#include <array>
#include <deque>

#include "tests/fuzz/fuzz_ring.h"
#include "vmm/virtio/queue.h"

namespace {

using namespace plumb;

constexpr uint64_t kRam = 2U << 20U;
constexpr uint16_t kMaxSegments = 12;
constexpr GuestAddress kData = FuzzRing::kBytes;
constexpr int kMaxSteps = 100;

const GuestMemory& ram() {
  static const std::unique_ptr<GuestMemory> memory =
      GuestMemory::create({.size_bytes = kRam}).value();
  return *memory;
}

struct Round {
  explicit Round(FuzzedDataProvider& data)
      : input(data),
        size(static_cast<uint16_t>(1U << input.ConsumeIntegralInRange<unsigned>(0, 8))),
        event_idx(input.ConsumeBool()),
        indirect(input.ConsumeBool()),
        ring(input, ram(), 0, size, indirect, broken) {
    uint64_t features = kVirtioFVersion1;
    if (indirect) features |= kVirtioFIndirectDesc;
    if (event_idx) features |= kVirtioFEventIdx;
    queue = Virtqueue::create(ring.setup(), features, ram(), kMaxSegments).value();
  }
  ~Round() {
    for (VirtqueueChain& chain : chains) queue->abandon(std::move(chain));
  }

  void step() {
    switch (input.ConsumeIntegralInRange<int>(0, 7)) {
      case 0:
      case 1:
      case 2:
        add();
        break;
      case 3:
      case 4:
        pop();
        break;
      case 5:
        push();
        break;
      case 6:
        publish();
        break;
      default:
        if (input.ConsumeBool()) queue->disable_kicks();
        const bool more = queue->enable_kicks();
        ENSURE(ring.broken() || more == (popped < ring.sent()));
        break;
    }
  }

  void add() {
    std::vector<FuzzBuffer> buffers(input.ConsumeIntegralInRange<size_t>(1, 6));
    if (rarely(input)) {
      buffers.resize(kMaxSegments + 2);  // more than the device takes
      ring.spoil();
    }
    const auto readable = input.ConsumeIntegralInRange<size_t>(0, buffers.size());
    for (size_t i = 0; i < buffers.size(); ++i) {
      const auto length = input.ConsumeIntegralInRange<uint32_t>(0, 4096);
      // Also where the last byte is the last of RAM.
      buffers[i] = {input.ConsumeIntegralInRange<uint64_t>(kData, kRam - length), length,
                    i >= readable};
    }
    const std::optional<uint16_t> head = ring.add(buffers);
    if (!head) return;
    ring.publish();
    sent.push_back({*head, std::move(buffers)});
  }

  void pop() {
    Result<std::optional<VirtqueueChain>> result = queue->pop();
    if (!ring.broken()) ENSURE(result.ok() && result->has_value() == (popped < ring.sent()));
    if (!result.ok() || !result->has_value()) return;
    VirtqueueChain& chain = **result;
    check_inside(chain.readable());
    check_inside(chain.writable());
    ENSURE(chain.readable().size() + chain.writable().size() <= kMaxSegments);
    ENSURE(!std::exchange(heads[chain.head()], true));
    if (!ring.broken()) check_as_sent(chain);
    if (!sent.empty()) sent.pop_front();
    ++popped;
    chains.push_back(std::move(chain));
  }

  void push() {
    if (chains.empty()) return;
    const auto pick = input.ConsumeIntegralInRange<size_t>(0, chains.size() - 1);
    std::swap(chains[pick], chains.back());
    push_last(input.ConsumeIntegral<uint32_t>());
  }
  void push_last(uint32_t written) {
    heads[chains.back().head()] = false;
    pushed.push_back({chains.back().head(), written});
    queue->push(std::move(chains.back()), written);
    chains.pop_back();
  }

  void publish() {
    const auto event = input.ConsumeIntegral<uint16_t>();
    const bool quiet = input.ConsumeBool();
    ring.set_used_event(event);
    ring.set_flags(quiet ? 1 : 0);
    const uint16_t before = ring.used_index();
    const bool interrupt = queue->publish();
    if (ring.broken()) {
      pushed.clear();
      return;
    }
    bool passed = false;
    for (uint16_t index = before; index != ring.used_index(); ++index) passed |= index == event;
    ENSURE(interrupt == (event_idx ? passed : !quiet && !pushed.empty()));
    while (!pushed.empty()) {
      ENSURE(ring.next_used() == pushed.front());
      pushed.pop_front();
    }
    ENSURE(!ring.next_used());
  }

  // At the end every chain that was sent has come, and all go back.
  void finish() {
    while (!ring.broken() && popped < ring.sent()) pop();
    while (!chains.empty()) push_last(0);
    publish();
    ENSURE(ring.broken() || ring.used_index() == ring.sent());
  }

  static void check_inside(std::span<const iovec> parts) {
    const std::byte* start = ram().at(0, kRam);
    for (const iovec& part : parts) {
      const auto* at = static_cast<const std::byte*>(part.iov_base);
      ENSURE(part.iov_len > 0 && part.iov_len <= kRam);
      ENSURE(at >= start && at + part.iov_len <= start + kRam);
    }
  }

  void check_as_sent(const VirtqueueChain& chain) const {
    ENSURE(chain.head() == sent.front().head);
    size_t count[2] = {0, 0};
    for (const FuzzBuffer& buffer : sent.front().buffers) {
      if (buffer.length == 0) continue;
      const std::span<const iovec> side = buffer.writable ? chain.writable() : chain.readable();
      size_t& at = count[buffer.writable ? 1 : 0];
      ENSURE(at < side.size() && side[at].iov_len == buffer.length);
      ENSURE(side[at].iov_base == ram().at(buffer.address, buffer.length));
      ++at;
    }
    ENSURE(count[0] == chain.readable().size() && count[1] == chain.writable().size());
  }

  struct Sent {
    uint16_t head;
    std::vector<FuzzBuffer> buffers;
  };
  FuzzedDataProvider& input;
  const uint16_t size;
  const bool event_idx;
  const bool indirect;
  bool broken = false;
  FuzzRing ring;
  std::unique_ptr<Virtqueue> queue;
  std::deque<Sent> sent;
  uint16_t popped = 0;
  std::vector<VirtqueueChain> chains;
  std::array<bool, FuzzRing::kMaxSize> heads{};
  std::deque<FakeQueue::Used> pushed;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  FuzzedDataProvider input(data, bytes);
  Round round(input);
  for (int steps = 0; steps < kMaxSteps && input.remaining_bytes() > 0; ++steps) round.step();
  round.finish();
  return 0;
}
