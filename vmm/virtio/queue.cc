#include "vmm/virtio/queue.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace plumb {
namespace {

// Section 2.7.5.
constexpr uint16_t kDescNext = 1;
constexpr uint16_t kDescWrite = 2;
constexpr uint16_t kDescIndirect = 4;
constexpr size_t kDescriptorBytes = 16;
// Sections 2.7.6 and 2.7.8: flags, and where the parts of the rings are.
constexpr uint16_t kAvailNoInterrupt = 1;
constexpr uint16_t kUsedNoNotify = 1;
constexpr size_t kRingFlags = 0;    // in 16-bit words
constexpr size_t kRingIndex = 1;    // in 16-bit words
constexpr size_t kRingEntries = 2;  // in 16-bit words
constexpr size_t kUsedEntryBytes = 8;

// The rings' words, which the driver reads and writes at the same time.
uint16_t load_relaxed(const uint16_t* word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
uint16_t load_acquire(const uint16_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
// With SEQ_CST on both, a store to one word is seen before a load of another happens: the two
// sides cannot both miss what the other just wrote.
uint16_t load_ordered(const uint16_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
void store_ordered(uint16_t* word, uint16_t value) {
  __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

}  // namespace

struct Virtqueue::Descriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t flags = 0;
  uint16_t next = 0;
};

// The descriptors a chain is in: those of the queue, or an indirect table.
struct Virtqueue::Table {
  const std::byte* start = nullptr;
  uint32_t count = 0;
  bool indirect = false;

  // A copy, made once: the compiler must not look at guest memory again, which may change.
  Descriptor copy(uint16_t index) const {
    static_assert(sizeof(Descriptor) == kDescriptorBytes);
    Descriptor descriptor;
    std::memcpy(&descriptor, start + index * kDescriptorBytes, kDescriptorBytes);
    asm volatile("" : : : "memory");
    return descriptor;
  }
};

Virtqueue::Virtqueue(uint16_t size, uint64_t features, const GuestMemory& memory,
                     uint16_t max_segments)
    : memory_(memory),
      size_(size),
      max_segments_(max_segments),
      indirect_((features & kVirtioFIndirectDesc) != 0),
      event_idx_((features & kVirtioFEventIdx) != 0),
      // Not initialised: pages that no chain uses are never touched.
      storage_(std::make_unique_for_overwrite<iovec[]>(size_t{size} * max_segments)),
      free_slots_(size),
      head_in_flight_(size) {
  for (uint16_t i = 0; i < size; ++i) free_slots_[i] = static_cast<uint16_t>(size - 1 - i);
}

Virtqueue::~Virtqueue() { ENSURE(free_slots_.size() == size_); }

Result<std::unique_ptr<Virtqueue>> Virtqueue::create(const VirtioQueueSetup& setup,
                                                     uint64_t features, const GuestMemory& memory,
                                                     uint16_t max_segments) {
  if (!std::has_single_bit(setup.size) || setup.size > kMaxQueueSize) {
    return failed("queue size {} is not a power of two up to {}", setup.size, kMaxQueueSize);
  }
  std::unique_ptr<Virtqueue> queue(new Virtqueue(setup.size, features, memory, max_segments));
  TRY(queue->map(setup));
  return queue;
}

Result<> Virtqueue::map(const VirtioQueueSetup& setup) {
  // Table and rings, each with its alignment; the rings with flags, index and event word.
  const size_t table_bytes = size_ * kDescriptorBytes;
  const size_t available_bytes = (kRingEntries + size_ + 1) * sizeof(uint16_t);
  const size_t used_bytes = kRingEntries * sizeof(uint16_t) + size_ * kUsedEntryBytes + 2;
  if (setup.descriptors % 16 != 0 || setup.driver_ring % 2 != 0 || setup.device_ring % 4 != 0) {
    return failed("a ring of the queue is not aligned");
  }
  descriptors_ = memory_.at(setup.descriptors, table_bytes);
  // SAFETY: inside RAM as a whole, and aligned: guest RAM starts at a page.
  available_ = reinterpret_cast<uint16_t*>(memory_.at(setup.driver_ring, available_bytes));
  used_ = memory_.at(setup.device_ring, used_bytes);
  if (descriptors_ == nullptr || available_ == nullptr || used_ == nullptr) {
    return failed("a ring of the queue is outside RAM");
  }
  return {};
}

bool Virtqueue::has_available() const {
  return load_relaxed(available_ + kRingIndex) != next_available_;
}

Result<std::optional<VirtqueueChain>> Virtqueue::pop() {
  const auto ahead = static_cast<uint16_t>(load_acquire(available_ + kRingIndex) - next_available_);
  if (ahead == 0) return std::optional<VirtqueueChain>();
  if (ahead > size_) return failed("the available ring is ahead by {} of {}", ahead, size_);
  const uint16_t head = load_relaxed(available_ + kRingEntries + (next_available_ & (size_ - 1)));
  if (head >= size_) return failed("chain head {} is beyond the queue", head);
  if (head_in_flight_[head]) return failed("chain head {} is in flight already", head);

  VirtqueueChain chain;
  chain.head_ = head;
  chain.iov_ = storage_.get() + size_t{free_slots_.back()} * max_segments_;
  TRY(walk(head, chain));
  free_slots_.pop_back();
  head_in_flight_[head] = true;
  ++next_available_;
  chain.queue_ = this;
  return std::optional<VirtqueueChain>(std::move(chain));
}

Result<> Virtqueue::walk(uint16_t head, VirtqueueChain& chain) const {
  Table table{.start = descriptors_, .count = size_};
  // A chain is no longer than the queue, and an indirect one no longer than we take: a loop ends.
  uint32_t left = size_;
  uint16_t index = head;
  while (true) {
    if (index >= table.count) return failed("descriptor {} is beyond its table", index);
    if (left-- == 0) return failed("chain {} is too long, or a loop", head);
    const Descriptor descriptor = table.copy(index);
    if ((descriptor.flags & kDescIndirect) != 0) {
      TRY(enter_indirect(descriptor, table));
      left = std::max(size_, max_segments_);
      index = 0;
      continue;
    }
    TRY(add_buffer(descriptor, chain));
    if ((descriptor.flags & kDescNext) == 0) return {};
    index = descriptor.next;
  }
}

Result<> Virtqueue::enter_indirect(const Descriptor& descriptor, Table& table) const {
  if (!indirect_) return failed("an indirect descriptor was not negotiated");
  if (table.indirect) return failed("an indirect descriptor is inside an indirect table");
  if ((descriptor.flags & kDescNext) != 0) return failed("an indirect descriptor has a next one");
  if (descriptor.length == 0 || descriptor.length % kDescriptorBytes != 0) {
    return failed("an indirect table has {} bytes", descriptor.length);
  }
  const std::byte* start = memory_.at(descriptor.address, descriptor.length);
  if (start == nullptr) return failed("an indirect table is outside RAM");
  table = {.start = start,
           .count = static_cast<uint32_t>(descriptor.length / kDescriptorBytes),
           .indirect = true};
  return {};
}

Result<> Virtqueue::add_buffer(const Descriptor& descriptor, VirtqueueChain& chain) const {
  const bool writable = (descriptor.flags & kDescWrite) != 0;
  if (!writable && chain.writable_count_ > 0) {
    return failed("a readable buffer follows a writable one");
  }
  // An empty buffer is allowed, and nothing.
  if (descriptor.length == 0) return {};
  const unsigned count = chain.readable_count_ + chain.writable_count_;
  if (count == max_segments_) return failed("a chain has more than {} buffers", max_segments_);
  std::byte* start = memory_.at(descriptor.address, descriptor.length);
  if (start == nullptr) {
    return failed("a buffer of {} bytes at {:#x} is outside RAM", descriptor.length,
                  descriptor.address);
  }
  chain.iov_[count] = {.iov_base = start, .iov_len = descriptor.length};
  ++(writable ? chain.writable_count_ : chain.readable_count_);
  return {};
}

void Virtqueue::free_chain(VirtqueueChain& chain) {
  ENSURE(chain.queue_ == this);
  const auto slot = static_cast<uint16_t>((chain.iov_ - storage_.get()) / max_segments_);
  free_slots_.push_back(slot);
  head_in_flight_[chain.head_] = false;
  chain.queue_ = nullptr;
}

void Virtqueue::push(VirtqueueChain chain, uint32_t written) {
  const uint32_t entry[2] = {chain.head_, written};
  free_chain(chain);
  const size_t slot = next_used_ & (size_ - 1U);
  std::memcpy(used_ + kRingEntries * sizeof(uint16_t) + slot * kUsedEntryBytes, entry,
              sizeof(entry));
  ++next_used_;
}

void Virtqueue::abandon(VirtqueueChain chain) { free_chain(chain); }

bool Virtqueue::publish() {
  if (next_used_ == published_) return false;
  const uint16_t before = std::exchange(published_, next_used_);
  // SAFETY: map() checked place and alignment.
  auto* words = reinterpret_cast<uint16_t*>(used_);
  store_ordered(words + kRingIndex, next_used_);
  if (!event_idx_) {
    return (load_ordered(available_ + kRingFlags) & kAvailNoInterrupt) == 0;
  }
  // The driver wants to hear when the index passes its event (section 2.7.7).
  const uint16_t event = load_ordered(available_ + kRingEntries + size_);
  return static_cast<uint16_t>(next_used_ - event - 1) < static_cast<uint16_t>(next_used_ - before);
}

void Virtqueue::disable_kicks() {
  // With EVENT_IDX the event stays where it is, behind: the driver passes it once and is quiet.
  if (event_idx_) return;
  // SAFETY: as in publish().
  store_ordered(reinterpret_cast<uint16_t*>(used_) + kRingFlags, kUsedNoNotify);
}

bool Virtqueue::enable_kicks() {
  // SAFETY: as in publish().
  auto* words = reinterpret_cast<uint16_t*>(used_);
  if (event_idx_) {
    const size_t event = kRingEntries + size_ * (kUsedEntryBytes / sizeof(uint16_t));
    store_ordered(words + event, next_available_);
  } else {
    store_ordered(words + kRingFlags, 0);
  }
  return load_ordered(available_ + kRingIndex) != next_available_;
}

}  // namespace plumb
