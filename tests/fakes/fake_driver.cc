#include "tests/fakes/fake_driver.h"

#include <algorithm>

#include "base/file.h"

namespace plumb {
namespace {

constexpr size_t kFlags = 0;
constexpr size_t kIndex = 1;
constexpr size_t kEntries = 2;

uint16_t load(const uint16_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
void store(uint16_t* word, uint16_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }

}  // namespace

GuestBuffer FakeGuest::allocate(uint32_t bytes, uint32_t alignment) {
  next_ = (next_ + alignment - 1) / alignment * alignment;
  GuestBuffer buffer{.address = next_, .length = bytes, .host = memory_->at(next_, bytes)};
  ENSURE(buffer.host != nullptr);
  std::memset(buffer.host, 0, bytes);
  next_ += bytes;
  return buffer;
}

GuestBuffer FakeGuest::text(std::string_view content) {
  const GuestBuffer buffer = allocate(static_cast<uint32_t>(content.size()));
  std::memcpy(buffer.host, content.data(), content.size());
  return buffer;
}

ChainBuilder& ChainBuilder::add(const GuestBuffer& buffer, uint16_t flags) {
  (indirect_ ? table_ : direct_)
      .push_back({.address = buffer.address, .length = buffer.length, .flags = flags, .next = 0});
  return *this;
}

ChainBuilder& ChainBuilder::indirect() {
  indirect_ = true;
  return *this;
}

uint16_t ChainBuilder::add_available() {
  if (indirect_) {
    for (size_t i = 0; i + 1 < table_.size(); ++i) {
      table_[i].flags |= kFakeDescNext;
      table_[i].next = static_cast<uint16_t>(i + 1);
    }
    const GuestBuffer table =
        queue_.guest_.allocate(static_cast<uint32_t>(table_.size() * sizeof(FakeDescriptor)));
    std::memcpy(table.host, table_.data(), table.length);
    direct_.push_back(
        {.address = table.address, .length = table.length, .flags = kFakeDescIndirect, .next = 0});
  }
  std::vector<uint16_t> indices;
  for (size_t i = 0; i < direct_.size(); ++i) indices.push_back(queue_.allocate_descriptor());
  for (size_t i = 0; i < direct_.size(); ++i) {
    FakeDescriptor descriptor = direct_[i];
    if (i + 1 < direct_.size()) {
      descriptor.flags |= kFakeDescNext;
      descriptor.next = indices[i + 1];
    }
    queue_.descriptor(indices[i]) = descriptor;
  }
  const uint16_t head = indices.front();
  queue_.chains_[head] = indices;
  queue_.add_available_entry(head);
  return head;
}

uint16_t ChainBuilder::send() {
  const uint16_t head = add_available();
  queue_.publish();
  queue_.kick();
  return head;
}

FakeQueue::FakeQueue(FakeGuest& guest, uint16_t size)
    : guest_(guest),
      size_(size),
      table_(guest.allocate(size * 16U)),
      available_(guest.allocate(6U + 2U * size, 2)),
      used_(guest.allocate(6U + 8U * size, 4)),
      kick_fd_(make_eventfd().value()),
      chains_(size) {
  for (uint16_t i = 0; i < size; ++i) free_.push_back(static_cast<uint16_t>(size - 1 - i));
}

VirtioQueueSetup FakeQueue::setup() const {
  return {.enabled = true,
          .size = size_,
          .descriptors = table_.address,
          .driver_ring = available_.address,
          .device_ring = used_.address,
          .kick_fd = kick_fd_.get()};
}

uint16_t FakeQueue::allocate_descriptor() {
  ENSURE(!free_.empty());
  const uint16_t index = free_.back();
  free_.pop_back();
  return index;
}

void FakeQueue::add_available_entry(uint16_t head) {
  store(available() + kEntries + (available_index_ & (size_ - 1)), head);
  ++available_index_;
}

void FakeQueue::set_available_index(uint16_t index) { store(available() + kIndex, index); }
void FakeQueue::publish() { set_available_index(available_index_); }
void FakeQueue::kick() const { signal_eventfd(kick_fd_.get()); }

void FakeQueue::publish_and_ring_if_asked() {
  const uint16_t before = load(available() + kIndex);
  publish();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  // 2.7.10: whether the index has passed the event.
  const auto passed = static_cast<uint16_t>(available_index_ - avail_event() - 1U);
  if (passed < static_cast<uint16_t>(available_index_ - before)) kick();
}

uint16_t FakeQueue::used_index() const { return load(used() + kIndex); }
uint16_t FakeQueue::used_flags() const { return load(used() + kFlags); }
uint16_t FakeQueue::avail_event() const { return load(used() + kEntries + 4U * size_); }
void FakeQueue::set_used_event(uint16_t value) { store(available() + kEntries + size_, value); }
void FakeQueue::set_no_interrupt(bool value) { store(available() + kFlags, value ? 1 : 0); }

std::optional<FakeQueue::Used> FakeQueue::next_used() {
  if (used_index() == next_used_) return std::nullopt;
  uint32_t entry[2];
  const size_t slot = next_used_ & (size_ - 1U);
  std::memcpy(entry, used_.host + 4 + slot * 8, sizeof(entry));
  ++next_used_;
  const auto head = static_cast<uint16_t>(entry[0]);
  ENSURE(entry[0] < size_);
  for (const uint16_t index : std::exchange(chains_[head], {})) free_.push_back(index);
  return Used{.head = head, .length = entry[1]};
}

FakeQueue::Used FakeQueue::wait_used() {
  while (true) {
    set_used_event(next_used_);
    if (const std::optional<Used> used = next_used()) return *used;
    interrupt.acquire();
  }
}

FakeDriver::FakeDriver(FakeGuest& guest, VirtioDevice& device) : guest_(guest), device_(device) {}

Result<> FakeDriver::start(uint64_t wanted) {
  const std::span<const uint16_t> sizes = device_.queue_sizes();
  return start_with(wanted, {sizes.begin(), sizes.end()});
}

Result<> FakeDriver::start_with(uint64_t wanted, const std::vector<uint16_t>& sizes) {
  features_ = device_.features() & wanted;
  queues_.clear();
  std::vector<VirtioQueueSetup> setups;
  for (const uint16_t size : sizes) {
    queues_.push_back(std::make_unique<FakeQueue>(guest_, size));
    setups.push_back(queues_.back()->setup());
  }
  return device_.activate(
      {.features = features_, .queues = setups, .memory = &guest_.memory(), .interrupt = this});
}

void FakeDriver::signal_queue(uint16_t queue) {
  ++queues_[queue]->interrupts;
  queues_[queue]->interrupt.release();
}

void FakeDriver::needs_reset() {
  ++resets_needed;
  reset_needed.release();
}

}  // namespace plumb
