// The driver's half of virtio, over plain guest memory: queues with a chain builder, and a driver
// that activates a device and counts its interrupts. Everything a real driver must not do can be
// done, too.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <semaphore>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/guest_memory.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

// A piece of guest memory, as the guest and as the test see it.
struct GuestBuffer {
  GuestAddress address = 0;
  uint32_t length = 0;
  std::byte* host = nullptr;

  void fill(unsigned char value) const { std::memset(host, value, length); }
  bool all(unsigned char value) const {
    for (uint32_t i = 0; i < length; ++i) {
      if (host[i] != std::byte{value}) return false;
    }
    return true;
  }
  uint8_t byte(uint32_t index = 0) const { return static_cast<uint8_t>(host[index]); }
  GuestBuffer part(uint32_t offset, uint32_t bytes) const {
    return {address + offset, bytes, host + offset};
  }
};

// Guest memory that hands out buffers, from address 4096 on.
class FakeGuest {
 public:
  explicit FakeGuest(uint64_t bytes = 8U << 20U)
      : FakeGuest(GuestMemory::create({.size_bytes = bytes}).value()) {}
  explicit FakeGuest(std::unique_ptr<GuestMemory> memory) : memory_(std::move(memory)) {}
  const GuestMemory& memory() const { return *memory_; }
  // Zeroed; aborts the test when memory is used up.
  GuestBuffer allocate(uint32_t bytes, uint32_t alignment = 16);
  template <typename T>
  GuestBuffer place(const T& value) {
    const GuestBuffer buffer = allocate(sizeof(T));
    std::memcpy(buffer.host, &value, sizeof(T));
    return buffer;
  }
  GuestBuffer text(std::string_view content);
  // Takes all buffers back: none may be in use any more.
  void take_back_all() { next_ = kFirst; }

 private:
  static constexpr GuestAddress kFirst = 4096;

  std::unique_ptr<GuestMemory> memory_;
  GuestAddress next_ = kFirst;
};

inline constexpr uint16_t kFakeDescNext = 1;
inline constexpr uint16_t kFakeDescWrite = 2;
inline constexpr uint16_t kFakeDescIndirect = 4;

struct FakeDescriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t flags = 0;
  uint16_t next = 0;
};

class FakeQueue;

// Builds one chain: queue.chain().readable(header).writable(data).writable(status).send().
class ChainBuilder {
 public:
  explicit ChainBuilder(FakeQueue& queue) : queue_(queue) {}
  ChainBuilder& readable(const GuestBuffer& buffer) { return add(buffer, 0); }
  ChainBuilder& writable(const GuestBuffer& buffer) { return add(buffer, kFakeDescWrite); }
  // Buffers from here on go into an indirect table.
  ChainBuilder& indirect();
  // Writes the descriptors and the available entry; the device sees it after publish().
  uint16_t add_available();
  // add_available, publish, kick.
  uint16_t send();

 private:
  ChainBuilder& add(const GuestBuffer& buffer, uint16_t flags);
  FakeQueue& queue_;
  std::vector<FakeDescriptor> direct_;
  std::vector<FakeDescriptor> table_;
  bool indirect_ = false;
};

class FakeQueue {
 public:
  struct Used {
    uint16_t head = 0;
    uint32_t length = 0;
    bool operator==(const Used&) const = default;
  };

  FakeQueue(FakeGuest& guest, uint16_t size);

  VirtioQueueSetup setup() const;
  FakeGuest& guest() { return guest_; }
  uint16_t size() const { return size_; }

  ChainBuilder chain() { return ChainBuilder(*this); }
  // Shows the available entries to the device, and signals the doorbell.
  void publish();
  void kick() const;
  // Signals the doorbell if the device asks for it by avail_event, as drivers with EVENT_IDX do.
  void publish_and_ring_if_asked();
  // The next used entry, or none yet. Frees its descriptors.
  std::optional<Used> next_used();
  // Waits for one: a device that never answers hangs the test.
  Used wait_used();

  // For what a driver must not do.
  FakeDescriptor& descriptor(uint16_t index) { return descriptors()[index]; }
  void add_available_entry(uint16_t head);
  uint16_t available_index() const { return available_index_; }
  void set_available_index(uint16_t index);
  uint16_t allocate_descriptor();

  uint16_t used_index() const;
  uint16_t used_flags() const;
  uint16_t avail_event() const;
  void set_used_event(uint16_t value);
  void set_no_interrupt(bool value);

  std::counting_semaphore<> interrupt{0};
  std::atomic<unsigned> interrupts = 0;

 private:
  friend class ChainBuilder;
  FakeDescriptor* descriptors() { return reinterpret_cast<FakeDescriptor*>(table_.host); }
  uint16_t* available() const { return reinterpret_cast<uint16_t*>(available_.host); }
  uint16_t* used() const { return reinterpret_cast<uint16_t*>(used_.host); }

  FakeGuest& guest_;
  const uint16_t size_;
  GuestBuffer table_;
  GuestBuffer available_;
  GuestBuffer used_;
  UniqueFd kick_fd_;
  uint16_t available_index_ = 0;
  uint16_t next_used_ = 0;
  std::vector<uint16_t> free_;
  std::vector<std::vector<uint16_t>> chains_;  // by head: its descriptors
};

// Activates a device with queues of its own and plays the transport.
class FakeDriver final : public VirtioInterrupt {
 public:
  FakeDriver(FakeGuest& guest, VirtioDevice& device);
  ~FakeDriver() override { device_.reset(); }

  // Negotiates what is both `wanted` and offered, and activates.
  Result<> start(uint64_t wanted = ~0ULL);
  Result<> start_with(uint64_t wanted, const std::vector<uint16_t>& sizes);
  void reset() { device_.reset(); }

  FakeQueue& queue(size_t index = 0) { return *queues_[index]; }
  uint64_t features() const { return features_; }
  template <typename T>
  T config(uint32_t offset) {
    T value;
    device_.read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  void signal_queue(uint16_t queue) override;
  void signal_config() override { ++config_interrupts; }
  void needs_reset() override;

  std::atomic<unsigned> config_interrupts = 0;
  std::atomic<unsigned> resets_needed = 0;
  std::counting_semaphore<> reset_needed{0};

 private:
  FakeGuest& guest_;
  VirtioDevice& device_;
  uint64_t features_ = 0;
  std::vector<std::unique_ptr<FakeQueue>> queues_;
};

}  // namespace plumb
