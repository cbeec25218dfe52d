#include "vmm/virtio/device_queues.h"

#include <utility>

#include "base/log.h"

namespace plumb {

struct DeviceQueues::Queue {
  DeviceQueues* owner = nullptr;
  uint16_t index = 0;
  int kick_fd = -1;
  std::unique_ptr<Virtqueue> ring;
  bool broken = false;
  bool polled = false;
  bool kicks_asked = false;  // of one that is polled
  IoOp again;                // a kick of our own in the next turn
  bool again_asked = false;
};

DeviceQueues::DeviceQueues(Config config, IoThread& thread)
    : config_(std::move(config)), thread_(thread) {}

DeviceQueues::~DeviceQueues() { ENSURE(queues_.empty()); }

Result<> DeviceQueues::activate(const VirtioActivation& activation,
                                const std::function<void()>& started) {
  std::vector<std::unique_ptr<Queue>> queues;
  for (size_t i = 0; i < activation.queues.size() && i < config_.sizes.size(); ++i) {
    const VirtioQueueSetup& setup = activation.queues[i];
    auto& queue = queues.emplace_back();
    if (!setup.enabled) continue;
    if (setup.size > config_.sizes[i]) {
      return failed("queue {} of the {} has {} entries, more than offered", i, config_.name,
                    setup.size);
    }
    queue = std::make_unique<Queue>();
    queue->owner = this;
    queue->index = static_cast<uint16_t>(i);
    queue->kick_fd = setup.kick_fd;
    queue->polled = i >= config_.first_polled;
    queue->ring = TRY(
        Virtqueue::create(setup, activation.features, *activation.memory, config_.max_segments));
    queue->again.owner = queue.get();
    queue->again.done = [](IoOp& op) {
      Queue& self = *static_cast<Queue*>(op.owner);
      self.again_asked = false;
      if (!self.broken && self.owner->interrupt_ != nullptr) self.owner->config_.kicked(self.index);
    };
  }
  bool active = false;
  thread_.run([&] {
    active = interrupt_ != nullptr;
    if (active) return;
    queues_ = std::move(queues);
    interrupt_ = activation.interrupt;
    started();
    if (config_.first_polled != kNone) thread_.add_poller(*this);
    for (const auto& queue : queues_) {
      if (queue == nullptr) continue;
      const uint16_t index = queue->index;
      thread_.watch_signal(queue->kick_fd, [this, index] { config_.kicked(index); });
      config_.kicked(index);
    }
  });
  if (active) return failed("the {} is active already", config_.name);
  return {};
}

void DeviceQueues::reset(const std::function<void()>& stopped) {
  thread_.run([&] {
    if (interrupt_ == nullptr) return;
    if (config_.first_polled != kNone) thread_.remove_poller(*this);
    for (const auto& queue : queues_) {
      if (queue != nullptr && !queue->broken) thread_.unwatch(queue->kick_fd);
    }
    stopped();
    interrupt_ = nullptr;
  });
  // In a later turn: until then the loop may still call batch_end() and Queue::again.
  thread_.run([this] { queues_.clear(); });
}

bool DeviceQueues::usable(uint16_t queue) const {
  return interrupt_ != nullptr && queue < queues_.size() && queues_[queue] != nullptr &&
         !queues_[queue]->broken;
}

std::optional<VirtqueueChain> DeviceQueues::pop(uint16_t queue) {
  if (!usable(queue)) return std::nullopt;
  Result<std::optional<VirtqueueChain>> popped = queues_[queue]->ring->pop();
  if (popped.ok()) {
    popped_ += popped->has_value() ? 1 : 0;
    return std::move(*popped);
  }
  broken(*queues_[queue], popped.error());
  return std::nullopt;
}

void DeviceQueues::push(uint16_t queue, VirtqueueChain chain, uint32_t written) {
  queues_[queue]->ring->push(std::move(chain), written);
  thread_.call_at_batch_end(*this);
}

void DeviceQueues::abandon(uint16_t queue, VirtqueueChain chain) {
  queues_[queue]->ring->abandon(std::move(chain));
}

void DeviceQueues::serve(uint16_t queue, const std::function<bool(VirtqueueChain)>& handle) {
  if (!usable(queue)) return;
  Queue& served = *queues_[queue];
  if (!served.polled || std::exchange(served.kicks_asked, false)) served.ring->disable_kicks();
  unsigned left = 2U * served.ring->size();
  do {
    while (std::optional<VirtqueueChain> chain = pop(queue)) {
      if (!handle(std::move(*chain))) return;
      if (--left > 0) continue;
      if (!std::exchange(served.again_asked, true)) thread_.defer(served.again);
      return;
    }
  } while (!served.polled && enable_kicks(queue));
}

bool DeviceQueues::poll() {
  const uint64_t before = popped_;
  for (const auto& queue : queues_) {
    if (queue == nullptr || !queue->polled || queue->broken) continue;
    if (queue->ring->has_available()) config_.kicked(queue->index);
  }
  return popped_ != before;
}

void DeviceQueues::ask_for_wakeup() {
  for (const auto& queue : queues_) {
    if (queue == nullptr || !queue->polled) continue;
    // What is found is served, which takes the kicks back; a device that cannot take it now does
    // so by itself later.
    while (!queue->broken && !queue->kicks_asked && !queue->again_asked) {
      queue->kicks_asked = true;
      if (queue->ring->enable_kicks()) config_.kicked(queue->index);
    }
  }
}

bool DeviceQueues::enable_kicks(uint16_t queue) {
  return usable(queue) && queues_[queue]->ring->enable_kicks();
}

void DeviceQueues::broken(Queue& queue, const Error& error) {
  log::warning("the guest broke queue {} of the {}: {}", queue.index, config_.name, error.message);
  queue.broken = true;
  thread_.unwatch(queue.kick_fd);
  interrupt_->needs_reset();
}

void DeviceQueues::batch_end() {
  if (interrupt_ == nullptr) return;
  for (const auto& queue : queues_) {
    if (queue != nullptr && queue->ring->publish()) interrupt_->signal_queue(queue->index);
  }
}

}  // namespace plumb
