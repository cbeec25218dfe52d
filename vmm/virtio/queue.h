// Virtqueue: the device's side of a split virtqueue. Source: virtio 1.2, section 2.7.
//
// The rings are guest memory and change under our hands: each descriptor is copied once into the
// chain, and only the copy is looked at. Nothing a guest writes there can do more than fail this
// queue. No locks: one thread, the device's I/O thread, uses a queue.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/result.h"
#include "vmm/guest_memory.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

// The largest queue that any device here offers.
inline constexpr uint16_t kMaxQueueSize = 1024;

class Virtqueue;

// The buffers of one request. Move-only, and must be given back by Virtqueue::push; the
// destructor checks that. The iovecs point into guest memory, bounds already checked, and into
// storage of the queue that is this chain's own until it is pushed.
class VirtqueueChain {
 public:
  VirtqueueChain(VirtqueueChain&& other) noexcept { *this = std::move(other); }
  VirtqueueChain& operator=(VirtqueueChain&& other) noexcept {
    ENSURE(queue_ == nullptr);
    queue_ = std::exchange(other.queue_, nullptr);
    iov_ = other.iov_;
    head_ = other.head_;
    readable_count_ = other.readable_count_;
    writable_count_ = other.writable_count_;
    return *this;
  }
  ~VirtqueueChain() { ENSURE(queue_ == nullptr); }

  // In chain order: what the driver lets the device read, then what it may write.
  std::span<iovec> readable() const { return {iov_, readable_count_}; }
  std::span<iovec> writable() const { return {iov_ + readable_count_, writable_count_}; }
  // The descriptor index that names the chain: unique among the queue's chains in flight.
  uint16_t head() const { return head_; }

 private:
  friend class Virtqueue;
  VirtqueueChain() = default;

  Virtqueue* queue_ = nullptr;
  iovec* iov_ = nullptr;
  uint16_t head_ = 0;
  uint16_t readable_count_ = 0;
  uint16_t writable_count_ = 0;
};

class Virtqueue {
 public:
  // Checks size and addresses (alignment, inside RAM as a whole). `max_segments` bounds the
  // buffers of a chain; memory for them is taken here, none later.
  static Result<std::unique_ptr<Virtqueue>> create(const VirtioQueueSetup& setup, uint64_t features,
                                                   const GuestMemory& memory,
                                                   uint16_t max_segments);
  // Every chain must have been pushed or abandoned.
  ~Virtqueue();

  uint16_t size() const { return size_; }

  // The next available chain, or none. An error means the driver broke the ring (index beyond the
  // queue, avail index ahead by more than the queue, loop, a descriptor outside RAM, indirect
  // inside indirect, readable after writable, a head already in flight, too many segments): the
  // device calls needs_reset() and stops using the queue.
  Result<std::optional<VirtqueueChain>> pop();

  // Whether pop() would bring something, or an error.
  bool has_available() const;

  // Gives a chain back: `written` bytes were written to its writable part. The guest sees it after
  // publish().
  void push(VirtqueueChain chain, uint32_t written);

  // Makes pushed chains visible by one store of used.idx. Returns whether the driver wants an
  // interrupt for them (EVENT_IDX or NO_INTERRUPT respected).
  bool publish();

  // Asks the driver for no kicks while the device is looking anyway.
  void disable_kicks();
  // Asks for a kick again. Returns true when chains arrived in between: then pop again.
  bool enable_kicks();

  // Drops a chain without telling the driver; for reset only.
  void abandon(VirtqueueChain chain);

 private:
  struct Descriptor;
  struct Table;

  Virtqueue(uint16_t size, uint64_t features, const GuestMemory& memory, uint16_t max_segments);
  Result<> map(const VirtioQueueSetup& setup);
  Result<> walk(uint16_t head, VirtqueueChain& chain) const;
  Result<> enter_indirect(const Descriptor& descriptor, Table& table) const;
  Result<> add_buffer(const Descriptor& descriptor, VirtqueueChain& chain) const;
  void free_chain(VirtqueueChain& chain);

  const GuestMemory& memory_;
  const uint16_t size_;
  const uint16_t max_segments_;
  const bool indirect_;   // INDIRECT_DESC negotiated
  const bool event_idx_;  // EVENT_IDX negotiated

  // In guest memory. Of the available ring: flags, index, entries, used_event; of the used ring:
  // flags, index, entries of 8 bytes, avail_event.
  const std::byte* descriptors_ = nullptr;
  uint16_t* available_ = nullptr;
  std::byte* used_ = nullptr;

  uint16_t next_available_ = 0;
  uint16_t next_used_ = 0;  // pushed
  uint16_t published_ = 0;  // of them, what the driver has been told

  // Room for the buffers of as many chains as can be in flight, in slots of max_segments_; a
  // stack of free slots, so that a queue with few chains in flight touches few of them.
  std::unique_ptr<iovec[]> storage_;
  std::vector<uint16_t> free_slots_;
  std::vector<bool> head_in_flight_;
};

}  // namespace plumb
