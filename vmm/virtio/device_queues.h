// DeviceQueues: the queues of a device (rng, console, net, SCSI host) on an I/O thread: set-up,
// kicks, broken rings, and one publication and interrupt per queue and turn of the loop.
//
// Everything but activate() and reset() is for the I/O thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"
#include "vmm/virtio/queue.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

class DeviceQueues final : private BatchEnd, private Poller {
 public:
  static constexpr uint16_t kNone = UINT16_MAX;
  struct Config {
    std::string name;                      // of the device, in the log
    std::span<const uint16_t> sizes;       // what the device offers; outlives this
    uint16_t max_segments = 0;             // buffers of a chain
    std::function<void(uint16_t)> kicked;  // queue has, or may have, new chains
    // Queues from this one on are looked at before the thread sleeps, and ask for no kicks until
    // then; `kicked` takes their chains by serve().
    uint16_t first_polled = kNone;
    std::function<bool()> few_in_flight;  // as Poller's, when there are such queues
  };

  // `thread` outlives this.
  DeviceQueues(Config config, IoThread& thread);
  ~DeviceQueues() override;

  // For VirtioDevice::activate(): checks the queues, then on the I/O thread calls `started` and,
  // for each enabled queue, `kicked`. On a vCPU thread.
  Result<> activate(const VirtioActivation& activation, const std::function<void()>& started);
  // For VirtioDevice::reset(): no kick is followed any more; calls `stopped` on the I/O thread,
  // which abandons the chains that the device still has. Harmless when not active.
  void reset(const std::function<void()>& stopped);

  IoThread& thread() { return thread_; }

  // Whether the driver enabled it and it is not broken.
  bool usable(uint16_t queue) const;
  // The next chain; none also when the queue is not usable.
  std::optional<VirtqueueChain> pop(uint16_t queue);
  void push(uint16_t queue, VirtqueueChain chain, uint32_t written);
  void abandon(uint16_t queue, VirtqueueChain chain);

  // Calls `handle` for each chain until there is none, or `handle` returns false; asks for no kicks
  // meanwhile, and for the next one when there is none. A driver that adds chains for ever gets
  // the rest served in the next turn.
  void serve(uint16_t queue, const std::function<bool(VirtqueueChain)>& handle);
  // Asks for the next kick; true when chains came meanwhile.
  bool enable_kicks(uint16_t queue);

 private:
  struct Queue;

  void broken(Queue& queue, const Error& error);
  void batch_end() override;
  bool poll() override;
  void ask_for_wakeup() override;
  bool few_in_flight() const override { return config_.few_in_flight(); }

  const Config config_;
  IoThread& thread_;
  VirtioInterrupt* interrupt_ = nullptr;
  std::vector<std::unique_ptr<Queue>> queues_;  // by index; nullptr: not enabled
  uint64_t popped_ = 0;                         // chains, of all queues
};

}  // namespace plumb
