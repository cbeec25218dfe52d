// The driver's half of a queue, for fuzz targets: it builds chains as a driver does, and rarely
// breaks one word of them. As long as it has broken none, the device owes it every chain;
// afterwards, only that nothing outside RAM is touched.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "base/check.h"
#include "tests/fakes/fake_driver.h"

namespace plumb {

// Once in 256 times, so that what surrounds a fault is good enough to be looked at; never once the
// input has ended.
inline bool rarely(FuzzedDataProvider& input) { return input.ConsumeIntegral<uint8_t>() == 0xff; }

struct FuzzBuffer {
  GuestAddress address = 0;
  uint32_t length = 0;
  bool writable = false;
};

class FuzzRing {
 public:
  static constexpr uint16_t kMaxSize = 256;
  static constexpr uint16_t kMaxBuffers = 16;  // of a chain
  static constexpr uint64_t kBytes = 0x12000;  // of guest memory

  // `size`: a power of two up to kMaxSize. Clears its memory, which starts at `base`, a page.
  // `broken` is of all rings in the same memory: through a broken word of one the device may be
  // led to write over the others.
  FuzzRing(FuzzedDataProvider& input, const GuestMemory& memory, GuestAddress base, uint16_t size,
           bool indirect, bool& broken)
      : input_(input),
        memory_(memory),
        base_(base),
        size_(size),
        indirect_(indirect),
        broken_(broken) {
    std::memset(at(0), 0, size * sizeof(FakeDescriptor));
    std::memset(at(kAvailable), 0, 6U + 2U * size);
    std::memset(at(kUsed), 0, 6U + 8U * size);
    std::memset(at(kTables), 0, size * kTableBytes);
    for (uint16_t i = 0; i < size; ++i) free_.push_back(static_cast<uint16_t>(size - 1 - i));
  }

  VirtioQueueSetup setup() const {
    return {.enabled = true,
            .size = size_,
            .descriptors = base_,
            .driver_ring = base_ + kAvailable,
            .device_ring = base_ + kUsed};
  }
  // Whether a word has been broken so far.
  bool broken() const { return broken_; }
  void spoil() { broken_ = true; }
  uint16_t sent() const { return index_; }

  // Adds a chain of up to kMaxBuffers buffers, some or all of them in an indirect table, and
  // returns its head; none without enough free descriptors.
  std::optional<uint16_t> add(std::span<const FuzzBuffer> buffers) {
    const size_t total = buffers.size();
    const bool table = indirect_ && input_.ConsumeBool();
    const size_t direct = table ? input_.ConsumeIntegralInRange<size_t>(0, total - 1) : total;
    const size_t count = direct + (table ? 1 : 0);
    if (free_.size() < count) return std::nullopt;
    std::array<uint16_t, kMaxBuffers + 1> index{};
    for (size_t i = 0; i < count; ++i) {
      index[i] = free_.back();
      free_.pop_back();
      next_[index[i]] = kEnd;
      if (i > 0) next_[index[i - 1]] = index[i];
    }
    const uint16_t head = index[0];
    in_flight_[head] = true;
    for (size_t i = 0; i < direct; ++i) {
      write(base_, index[i], descriptor(buffers[i], i + 1 < count, index[i + 1]));
    }
    if (table) {
      const GuestAddress start = base_ + kTables + head * kTableBytes;
      for (size_t i = direct; i < total; ++i) {
        const auto place = static_cast<uint16_t>(i - direct);
        const auto next = static_cast<uint16_t>(place + 1);
        write(start, place, descriptor(buffers[i], i + 1 < total, next));
      }
      const auto bytes = static_cast<uint32_t>((total - direct) * sizeof(FakeDescriptor));
      write(base_, index[direct], {start, bytes, kFakeDescIndirect, 0});
    }
    store(kAvailable + 4 + 2ULL * (index_ % size_), break_word(head));
    ++index_;
    return head;
  }
  void publish() { store(kAvailable + 2, break_word(index_)); }
  void set_used_event(uint16_t value) { store(kAvailable + 4 + 2ULL * size_, value); }
  void set_flags(uint16_t value) { store(kAvailable, value); }

  uint16_t used_index() const { return load(kUsed + 2); }
  // The next chain that came back; its descriptors are free again. Not once broken().
  std::optional<FakeQueue::Used> next_used() {
    ENSURE(static_cast<uint16_t>(used_index() - taken_) <= static_cast<uint16_t>(index_ - taken_));
    if (used_index() == taken_) return std::nullopt;
    uint32_t entry[2];
    std::memcpy(entry, at(kUsed + 4 + 8ULL * (taken_ % size_)), sizeof(entry));
    ++taken_;
    ENSURE(entry[0] < size_ && in_flight_[entry[0]]);  // sent, and not given back twice
    const auto head = static_cast<uint16_t>(entry[0]);
    in_flight_[head] = false;
    for (uint16_t i = head; i != kEnd; i = next_[i]) free_.push_back(i);
    return FakeQueue::Used{.head = head, .length = entry[1]};
  }

 private:
  static constexpr uint64_t kAvailable = 0x1000;
  static constexpr uint64_t kUsed = 0x1400;
  static constexpr uint64_t kTables = 0x2000;
  static constexpr uint64_t kTableBytes = kMaxBuffers * sizeof(FakeDescriptor);
  static constexpr uint16_t kEnd = 0xffff;

  std::byte* at(uint64_t offset) const { return memory_.at(base_ + offset, 1); }
  uint16_t load(uint64_t offset) const {
    uint16_t value = 0;
    std::memcpy(&value, at(offset), sizeof(value));
    return value;
  }
  void store(uint64_t offset, uint16_t value) const {
    std::memcpy(at(offset), &value, sizeof(value));
  }
  static FakeDescriptor descriptor(const FuzzBuffer& buffer, bool more, uint16_t next) {
    const unsigned flags = (buffer.writable ? kFakeDescWrite : 0U) | (more ? kFakeDescNext : 0U);
    return {buffer.address, buffer.length, static_cast<uint16_t>(flags), next};
  }
  uint16_t break_word(uint16_t good) {
    if (!rarely(input_)) return good;
    broken_ = true;
    return input_.ConsumeIntegral<uint16_t>();
  }
  void write(GuestAddress table, uint16_t index, FakeDescriptor value) {
    if (rarely(input_)) {
      broken_ = true;
      switch (input_.ConsumeIntegralInRange<int>(0, 3)) {
        case 0:
          value.address = input_.ConsumeIntegral<uint64_t>();
          break;
        case 1:
          value.length = input_.ConsumeIntegral<uint32_t>();
          break;
        case 2:
          value.flags = input_.ConsumeIntegral<uint16_t>();
          break;
        default:
          value.next = input_.ConsumeIntegral<uint16_t>();
          break;
      }
    }
    ENSURE(memory_.write(table + index * sizeof(FakeDescriptor), value));
  }

  FuzzedDataProvider& input_;
  const GuestMemory& memory_;
  const GuestAddress base_;
  const uint16_t size_;
  const bool indirect_;
  bool& broken_;
  uint16_t index_ = 0;  // of the available ring
  uint16_t taken_ = 0;  // of the used ring
  std::vector<uint16_t> free_;
  std::array<uint16_t, kMaxSize> next_{};   // by descriptor: the chain's next one
  std::array<bool, kMaxSize> in_flight_{};  // by head
};

}  // namespace plumb
