// VirtioBlk: the virtio block device (virtio 1.2, section 5.2) over a Disk.
//
// All its queues work on the disk's I/O thread. A request costs no allocation, lock or copy: its
// slot is made with the queue, its data moves between the medium and guest memory. With all slots
// of a queue in flight, chains wait in the available ring. The used ring is published, and the
// driver interrupted, once per turn of the loop.
#pragma once

#include <atomic>
#include <memory>
#include <semaphore>
#include <vector>

#include "blockdev/disk.h"
#include "blockdev/io_thread.h"
#include "vmm/virtio/blk_request.h"
#include "vmm/virtio/queue.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

class VirtioBlk final : public VirtioDevice, private BatchEnd, private Poller {
 public:
  static constexpr uint16_t kMaxQueues = 64;  // as many as vCPUs
  static constexpr uint16_t kQueueSize = 256;
  // Requests of one queue that are at the disk together; the rest waits in the ring.
  static constexpr uint16_t kSlotsPerQueue = 128;
  // Data buffers of a request: 1 MiB in pages, less the two for header and status.
  static constexpr uint16_t kSegMax = 254;

  // `disk` outlives the device. `queues`: 1 to kMaxQueues.
  VirtioBlk(Disk& disk, uint16_t queues);
  ~VirtioBlk() override;

  uint16_t device_id() const override { return kVirtioIdBlk; }
  uint64_t features() const override { return features_; }
  std::span<const uint16_t> queue_sizes() const override { return queue_sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> data) override;
  // Only the byte `writeback` is writable.
  void write_config(uint32_t offset, std::span<const std::byte> data) override;
  Result<> activate(const VirtioActivation& activation) override;
  void reset() override;

 private:
  struct Slot;
  struct Queue;

  void take_over();
  void stop();
  bool serve(Queue& queue);
  bool serve_one(Queue& queue);
  void act(Queue& queue, VirtqueueChain chain);
  void start(Slot& slot, const BlkRequest& request);
  void answer_id(const BlkRequest& request) const;
  static void finished(BlockRequest& request);
  void complete(Slot& slot);
  void push(Queue& queue, VirtqueueChain chain, const BlkRequest& request, uint8_t status);
  void broken(Queue& queue, const Error& error);
  bool writes_are_durable() const;
  void batch_end() override;
  bool poll() override;
  void ask_for_wakeup() override;

  Disk& disk_;
  const uint64_t features_;
  const std::vector<uint16_t> queue_sizes_;
  // Of the configuration space.
  std::atomic<uint64_t> size_bytes_;
  std::atomic<uint8_t> writeback_;

  // From activate() to reset(), and only on the disk's I/O thread.
  uint64_t negotiated_ = 0;
  VirtioInterrupt* interrupt_ = nullptr;
  std::vector<std::unique_ptr<Queue>> queues_;
  uint32_t in_flight_ = 0;
  bool stopping_ = false;
  std::binary_semaphore idle_{0};  // released once when stopping and nothing is in flight
};

}  // namespace plumb
