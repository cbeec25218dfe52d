// Fuzzes Virtqueue: a driver that builds valid chains and, rarely, breaks one word of them. What
// must hold: every buffer is inside RAM, no head is given twice, an error is final for the chain
// but never for us, and everything pushed is published.
#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <set>
#include <vector>

#include "vmm/virtio/queue.h"

namespace {

using plumb::GuestAddress;
using plumb::GuestMemory;
using plumb::Virtqueue;
using plumb::VirtqueueChain;

constexpr uint64_t kRam = 2U << 20U;
constexpr uint16_t kMaxSegments = 12;
constexpr GuestAddress kTable = 0;
constexpr GuestAddress kAvailable = 0x8000;
constexpr GuestAddress kUsed = 0xa000;
constexpr GuestAddress kIndirect = 0x10000;
constexpr uint64_t kRingBytes = 0x20000;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

const GuestMemory& ram() {
  static const std::unique_ptr<GuestMemory> memory =
      GuestMemory::create({.size_bytes = kRam}).value();
  return *memory;
}

class Driver {
 public:
  Driver(FuzzedDataProvider& input, uint16_t size, bool indirect)
      : input_(input), size_(size), indirect_(indirect) {}

  // True once in 64 times: the rest of the chain should stay worth looking at.
  bool rarely() { return input_.ConsumeIntegral<uint8_t>() < 4; }

  uint64_t address() {
    if (rarely()) return input_.ConsumeIntegral<uint64_t>();
    return input_.ConsumeIntegralInRange<uint64_t>(0, kRam - 4096);
  }

  Descriptor buffer(bool writable) {
    Descriptor made{address(), input_.ConsumeIntegralInRange<uint32_t>(0, 4096),
                    static_cast<uint16_t>(writable ? 2 : 0), 0};
    if (rarely()) made.length = input_.ConsumeIntegral<uint32_t>();
    if (rarely()) made.flags = input_.ConsumeIntegral<uint16_t>();
    return made;
  }

  void write_chain(GuestAddress table, uint16_t first, uint16_t count, uint16_t modulus) {
    const auto readable = input_.ConsumeIntegralInRange<uint16_t>(0, count);
    for (uint16_t i = 0; i < count; ++i) {
      Descriptor made = buffer(i >= readable);
      if (i + 1 < count) made.flags |= 1;
      made.next = static_cast<uint16_t>((first + i + 1) % modulus);
      if (rarely()) made.next = input_.ConsumeIntegral<uint16_t>();
      ram().write(table + 16ULL * ((first + i) % modulus), made);
    }
  }

  void add_chain() {
    const auto head = input_.ConsumeIntegralInRange<uint16_t>(0, static_cast<uint16_t>(size_ - 1));
    const auto count = input_.ConsumeIntegralInRange<uint16_t>(1, 14);
    if (indirect_ && input_.ConsumeBool()) {
      const GuestAddress table =
          kIndirect + 256ULL * input_.ConsumeIntegralInRange<uint16_t>(0, 200);
      write_chain(table, 0, count, count);
      Descriptor entry{table, count * 16U, 4, 0};
      if (rarely()) entry.length = input_.ConsumeIntegral<uint32_t>();
      if (rarely()) entry.flags = input_.ConsumeIntegral<uint16_t>();
      ram().write(kTable + 16ULL * head, entry);
    } else {
      write_chain(kTable, head, std::min<uint16_t>(count, size_), size_);
    }
    const uint16_t entry = rarely() ? input_.ConsumeIntegral<uint16_t>() : head;
    ram().write(kAvailable + 4 + 2ULL * (index_ % size_), entry);
    ++index_;
    if (rarely()) index_ = input_.ConsumeIntegral<uint16_t>();
    ram().write(kAvailable + 2, index_);
    ram().write(kAvailable + 4 + 2ULL * size_, input_.ConsumeIntegral<uint16_t>());
  }

 private:
  FuzzedDataProvider& input_;
  const uint16_t size_;
  const bool indirect_;
  uint16_t index_ = 0;
};

void check_inside(std::span<const iovec> parts) {
  const std::byte* start = ram().at(0, kRam);
  for (const iovec& part : parts) {
    const auto* at = static_cast<const std::byte*>(part.iov_base);
    ENSURE(part.iov_len > 0 && part.iov_len <= kRam);
    ENSURE(at >= start && at + part.iov_len <= start + kRam);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  FuzzedDataProvider input(data, bytes);
  std::memset(ram().at(0, kRingBytes), 0, kRingBytes);
  const auto size = static_cast<uint16_t>(1U << input.ConsumeIntegralInRange<unsigned>(0, 8));
  uint64_t features = plumb::kVirtioFVersion1;
  const bool indirect = input.ConsumeBool();
  if (indirect) features |= plumb::kVirtioFIndirectDesc;
  if (input.ConsumeBool()) features |= plumb::kVirtioFEventIdx;
  const plumb::VirtioQueueSetup setup{.enabled = true,
                                      .size = size,
                                      .descriptors = kTable,
                                      .driver_ring = kAvailable,
                                      .device_ring = kUsed};
  auto queue = Virtqueue::create(setup, features, ram(), kMaxSegments).value();
  Driver driver(input, size, indirect);
  std::vector<VirtqueueChain> chains;
  std::set<uint16_t> heads;
  uint16_t pushed = 0;
  for (int steps = 0; steps < 200 && input.remaining_bytes() > 0; ++steps) {
    switch (input.ConsumeIntegralInRange<int>(0, 4)) {
      case 0:
      case 1:
        driver.add_chain();
        break;
      case 2: {
        auto popped = queue->pop();
        if (!popped.ok() || !popped->has_value()) break;
        check_inside((*popped)->readable());
        check_inside((*popped)->writable());
        ENSURE((*popped)->readable().size() + (*popped)->writable().size() <= kMaxSegments);
        ENSURE(heads.insert((*popped)->head()).second);
        chains.push_back(std::move(**popped));
        break;
      }
      case 3: {
        if (chains.empty()) break;
        const auto pick = input.ConsumeIntegralInRange<size_t>(0, chains.size() - 1);
        std::swap(chains[pick], chains.back());
        heads.erase(chains.back().head());
        queue->push(std::move(chains.back()), input.ConsumeIntegral<uint32_t>());
        chains.pop_back();
        ++pushed;
        break;
      }
      default: {
        if (input.ConsumeBool()) queue->disable_kicks();
        queue->publish();
        queue->enable_kicks();
        uint16_t shown = 0;
        ENSURE(ram().read(kUsed + 2, shown));
        break;
      }
    }
  }
  for (VirtqueueChain& chain : chains) queue->abandon(std::move(chain));
  ENSURE(!queue->publish() || pushed > 0);
  return 0;
}
