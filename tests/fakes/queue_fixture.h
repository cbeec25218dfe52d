// A Virtqueue and the driver's half of it, for tests of either.
#pragma once

#include <string>
#include <vector>

#include "tests/fakes/fake_driver.h"
#include "vmm/virtio/queue.h"

namespace plumb {

inline constexpr uint64_t kQueueFeatures =
    kVirtioFIndirectDesc | kVirtioFEventIdx | kVirtioFVersion1;
inline constexpr uint16_t kQueueSegments = 8;
inline constexpr uint64_t kQueueRam = 8U << 20U;

struct QueueFixture {
  explicit QueueFixture(uint64_t negotiated = kQueueFeatures, uint16_t size = 16)
      : features(negotiated), driver(guest, size) {
    queue = Virtqueue::create(driver.setup(), features, guest.memory(), kQueueSegments).value();
  }
  std::optional<VirtqueueChain> pop() { return std::move(queue->pop()).value(); }
  // The error of the next pop(); "" when there is none.
  std::string pop_error() {
    Result<std::optional<VirtqueueChain>> popped = queue->pop();
    if (!popped.ok()) return popped.error().message;
    if (popped->has_value()) queue->abandon(std::move(**popped));
    return "";
  }
  // One available chain made of these raw descriptors, the first its head.
  void raw(std::vector<FakeDescriptor> descriptors) {
    const uint16_t head = driver.allocate_descriptor();
    driver.descriptor(head) = descriptors[0];
    for (size_t i = 1; i < descriptors.size(); ++i) {
      driver.descriptor(static_cast<uint16_t>(i)) = descriptors[i];
    }
    driver.add_available_entry(head);
    driver.publish();
  }

  FakeGuest guest{kQueueRam};
  uint64_t features;
  FakeQueue driver;
  std::unique_ptr<Virtqueue> queue;
};

}  // namespace plumb
