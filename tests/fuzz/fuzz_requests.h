// A virtio-blk driver for fuzz targets, on one FuzzRing: requests in every framing, mostly valid,
// rarely with a fault. As long as the ring is whole, every request is answered once, valid ones
// with success, in the order sent; and reads give what writes left.
#pragma once

#include <algorithm>
#include <utility>

#include "tests/fuzz/fuzz_ring.h"
#include "vmm/virtio/blk_request.h"

namespace plumb {

class FuzzRequests {
 public:
  static constexpr uint64_t kSectors = 16;     // of the disk, at least; this queue's own
  static constexpr uint64_t kBytes = 0x40000;  // of guest memory

  // The requests' memory starts at `base`. `first_sector`: where this queue's sectors start.
  // `known`, of all queues of the disk: no request with a fault may have changed it.
  FuzzRequests(FuzzedDataProvider& input, const GuestMemory& memory, FuzzRing& ring,
               GuestAddress base, uint64_t first_sector, std::span<uint8_t> content, bool& known)
      : input_(input),
        memory_(memory),
        ring_(ring),
        base_(base),
        first_sector_(first_sector),
        content_(content),
        known_(known) {
    for (Slot& slot : slots_) free_.push_back(&slot);
  }

  unsigned waiting() const { return waiting_; }

  // Sends one request, if there is room for it.
  void send() {
    if (free_.empty() || ring_.broken()) return;
    Slot& slot = *free_.back();
    slot.good = true;
    make(slot);
    std::vector<FuzzBuffer> buffers;
    cut(buffers, slot, 0, slot.out_bytes, false);
    cut(buffers, slot, kIn, slot.in_bytes, true);
    if (buffers.empty()) return;
    const std::optional<uint16_t> head = ring_.add(buffers);
    if (!head) return;
    free_.pop_back();
    if (slot.good) leave(slot);
    known_ = known_ && (slot.good || slot.type == kRead);
    by_head_[*head] = &slot;
    ++waiting_;
    ring_.publish();
  }

  // Takes what has come back, and checks it.
  void collect() {
    while (!ring_.broken()) {
      const std::optional<FakeQueue::Used> used = ring_.next_used();
      if (!used) return;
      Slot* slot = std::exchange(by_head_[used->head], nullptr);
      ENSURE(slot != nullptr);
      check(*slot, used->length);
      free_.push_back(slot);
      --waiting_;
    }
  }

 private:
  static constexpr uint32_t kRead = 0;
  static constexpr uint32_t kWrite = 1;
  static constexpr uint32_t kMaxSectors = 4;
  static constexpr size_t kSlots = 32;
  // A slot's memory: what the device reads, and, kGuard on both sides, what it may write.
  static constexpr uint64_t kSlotBytes = kBytes / kSlots;
  static constexpr uint64_t kIn = kSlotBytes / 2;
  static constexpr uint64_t kGuardBytes = 16;
  static constexpr std::byte kGuard{0x5a};

  struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  };
  struct Range {
    uint64_t sector;
    uint32_t sectors;
    uint32_t flags;
  };
  struct Slot {
    bool good = true;  // without a fault: to be answered with success
    uint32_t type = 0;
    uint64_t sector = 0;  // of this queue's
    uint32_t sectors = 0;
    uint8_t fill = 0;  // of what is written
    uint64_t out_bytes = 0;
    uint64_t in_bytes = 0;
    bool expected_known = false;
    std::array<uint8_t, kMaxSectors> expected{};  // of what is read
  };

  GuestAddress place(const Slot& slot) const {
    return base_ + static_cast<uint64_t>(&slot - slots_.data()) * kSlotBytes;
  }
  std::byte* at(const Slot& slot, uint64_t offset) const {
    return memory_.at(place(slot) + offset, 1);
  }
  bool faulty(Slot& slot) {
    if (!rarely(input_)) return false;
    slot.good = false;
    return true;
  }

  void make(Slot& slot) {
    constexpr std::array<uint32_t, 7> kTypes{0, 0, 1, 1, 4, 8, 11};
    slot.type = input_.PickValueInArray(kTypes);
    if (slot.type == 11 && input_.ConsumeBool()) slot.type = 13;
    slot.sectors = input_.ConsumeIntegralInRange<uint32_t>(1, kMaxSectors);
    slot.sector = input_.ConsumeIntegralInRange<uint64_t>(0, kSectors - slot.sectors);
    Header header{slot.type, 0, first_sector_ + slot.sector};
    Range range{header.sector, slot.sectors, 0};
    if (faulty(slot)) header.type = input_.ConsumeIntegral<uint32_t>();
    if (faulty(slot)) header.sector = range.sector = input_.ConsumeIntegral<uint64_t>();
    if (faulty(slot)) range.sectors = input_.ConsumeIntegral<uint32_t>();
    if (faulty(slot)) range.flags = input_.ConsumeIntegral<uint32_t>();
    const uint64_t data = slot.sectors * uint64_t{kBlkSectorBytes};
    slot.out_bytes = sizeof(header);
    slot.in_bytes = 1;
    if (slot.type == kRead) slot.in_bytes += data;
    if (slot.type == kWrite) slot.out_bytes += data;
    if (slot.type == 8) slot.in_bytes += kBlkIdBytes;
    std::memset(at(slot, kIn - kGuardBytes), static_cast<int>(kGuard), kGuardBytes);
    std::memcpy(at(slot, 0), &header, sizeof(header));
    if (slot.type == 11 || slot.type == 13) {
      std::memcpy(at(slot, slot.out_bytes), &range, sizeof(range));
      slot.out_bytes += sizeof(range);
    }
    if (slot.type == kWrite) {
      slot.fill = input_.ConsumeIntegral<uint8_t>();
      std::memset(at(slot, sizeof(header)), slot.fill, data);
    }
    if (faulty(slot)) slot.out_bytes = input_.ConsumeIntegralInRange<uint64_t>(0, 2100);
    if (faulty(slot)) slot.in_bytes = input_.ConsumeIntegralInRange<uint64_t>(0, 2100);
    std::memset(at(slot, kIn), static_cast<int>(kGuard), slot.in_bytes + kGuardBytes);
  }

  // Framing is the driver's own affair (2.7.4.1): buffers end anywhere.
  void cut(std::vector<FuzzBuffer>& buffers, const Slot& slot, uint64_t from, uint64_t bytes,
           bool writable) {
    for (unsigned pieces = 0; bytes > 0; ++pieces) {
      uint64_t count = bytes;
      if (pieces < 5 && input_.ConsumeBool()) {
        count = input_.ConsumeIntegralInRange<uint64_t>(1, bytes);
      }
      buffers.push_back({place(slot) + from, static_cast<uint32_t>(count), writable});
      from += count;
      bytes -= count;
    }
  }

  // What a good request does to the disk, or finds there.
  void leave(Slot& slot) {
    const std::span<uint8_t> sectors = content_.subspan(slot.sector, slot.sectors);
    slot.expected_known = known_ && slot.type == kRead;
    if (slot.type == kRead) std::copy(sectors.begin(), sectors.end(), slot.expected.begin());
    if (slot.type == kWrite) std::fill(sectors.begin(), sectors.end(), slot.fill);
    if (slot.type == 11 || slot.type == 13) std::fill(sectors.begin(), sectors.end(), uint8_t{0});
  }

  void check(const Slot& slot, uint32_t length) const {
    ENSURE(length <= slot.in_bytes);
    if (slot.in_bytes > 0) {
      const auto status = static_cast<uint8_t>(*at(slot, kIn + slot.in_bytes - 1));
      ENSURE(status <= kBlkUnsupported);
      if (slot.good) ENSURE(status == kBlkOk && length == slot.in_bytes);
    }
    for (uint64_t i = 0; i < kGuardBytes; ++i) {
      ENSURE(*at(slot, kIn - 1 - i) == kGuard && *at(slot, kIn + slot.in_bytes + i) == kGuard);
    }
    // Between queues there is no order: what was sent later may have come first.
    if (!slot.good || !slot.expected_known || !known_) return;
    for (uint32_t i = 0; i < slot.sectors; ++i) {
      std::array<uint8_t, kBlkSectorBytes> sector;
      std::memset(sector.data(), slot.expected[i], sector.size());
      const std::byte* read = at(slot, kIn + uint64_t{i} * kBlkSectorBytes);
      ENSURE(std::memcmp(read, sector.data(), sector.size()) == 0);
    }
  }

  FuzzedDataProvider& input_;
  const GuestMemory& memory_;
  FuzzRing& ring_;
  const GuestAddress base_;
  const uint64_t first_sector_;
  const std::span<uint8_t> content_;  // of this queue's sectors, a byte for each
  bool& known_;
  unsigned waiting_ = 0;
  std::array<Slot, kSlots> slots_;
  std::vector<Slot*> free_;
  std::array<Slot*, FuzzRing::kMaxSize> by_head_{};
};

}  // namespace plumb
