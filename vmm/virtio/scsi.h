// VirtioScsi: the SCSI host device (virtio 1.2, section 5.6): up to 256 targets, each with one
// logical unit, LUN 0. Targets come and go at any time; a driver with HOTPLUG is told by events.
//
// All its queues and logical units work on one I/O thread. Requests in flight have slots made with
// the device; when none is free, chains wait in the available ring.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <semaphore>
#include <vector>

#include "blockdev/scsi_lun.h"
#include "vmm/virtio/device_queues.h"
#include "vmm/virtio/scsi_request.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

class VirtioScsi final : public VirtioDevice {
 public:
  static constexpr uint16_t kMaxQueues = 64;  // of requests; as many as vCPUs
  static constexpr uint16_t kQueueSize = 256;
  static constexpr uint16_t kControlQueueSize = 64;
  static constexpr uint16_t kTargets = 256;
  // Requests at the logical units together; the rest waits in the rings.
  static constexpr uint16_t kSlots = 128;
  // Up to so many requests at the logical units are worth looking for their completions.
  static constexpr uint32_t kFewInFlight = 4;
  // Data buffers of a request: 1 MiB in pages, less two for the headers.
  static constexpr uint16_t kSegMax = 254;
  // Events that wait for a buffer of the driver; what comes on top is missed, and said so.
  static constexpr size_t kMaxEvents = 16;

  // `thread` outlives the device. `queues`: of requests, 1 to kMaxQueues.
  VirtioScsi(IoThread& thread, uint16_t queues);
  ~VirtioScsi() override;

  // Makes `lun`, which works on the device's thread, the target's, which has none. It stays until
  // it is removed, or the device dies.
  void add_target(uint8_t target, ScsiLun& lun);
  // Tells the driver that the target leaves; it still answers, for what the driver writes back. A
  // driver cannot say when it is done: use_of() shows what it does.
  void announce_removal(uint8_t target);
  // From now on commands to the target end with BAD_TARGET, those that have not reached its medium
  // too. Once the others have ended the target is free, and `removed` is called on the I/O thread.
  // Not twice.
  void remove_target(uint8_t target, std::function<void()> removed);
  struct TargetUse {
    uint64_t commands = 0;   // since it was added
    uint32_t in_flight = 0;  // of those
  };
  TargetUse use_of(uint8_t target);

  uint16_t device_id() const override { return kVirtioIdScsi; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override { return queue_sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> data) override;
  // Only sense_size and cdb_size are writable, up to 252.
  void write_config(uint32_t offset, std::span<const std::byte> data) override;
  Result<> activate(const VirtioActivation& activation) override;
  void reset() override;

 private:
  struct Slot;
  struct TaskRequest;
  struct Event;
  struct Target {
    ScsiLun* lun = nullptr;
    TargetUse use;
    std::function<void()> removed;  // set: it is being removed
  };

  void kicked(uint16_t queue);
  void serve_requests(uint16_t queue);
  void serve_starved();
  void start(uint16_t queue, VirtqueueChain chain);
  void refuse(uint16_t queue, VirtqueueChain chain, const ScsiRequest& request, uint8_t response);
  void answer(Slot& slot, uint8_t response);
  static void finished(ScsiCommand& command);
  void complete(Slot& slot);
  void free_slot(Slot& slot);
  void finish_removal(Target& target);
  void control(VirtqueueChain chain);
  void manage_tasks(VirtqueueChain chain, const ScsiControl& request);
  static bool affected(const Slot& slot, const ScsiControl& control, uint64_t sequence);
  bool any_affected(const ScsiControl& control, uint64_t sequence) const;
  void abort_affected(const TaskRequest& request);
  bool finish_if_done(TaskRequest& request);
  void post(const Event& event);
  void send_events();
  void stop();

  IoThread& thread_;
  const std::vector<uint16_t> queue_sizes_;
  std::atomic<uint32_t> sense_size_;
  std::atomic<uint32_t> cdb_size_;
  DeviceQueues queues_;

  // Only on the I/O thread.
  bool active_ = false;
  bool changes_told_ = false;  // CHANGE was negotiated
  bool hotplug_told_ = false;  // HOTPLUG was
  bool stopping_ = false;
  std::array<Target, kTargets> targets_;
  std::vector<Slot> slots_;
  Slot* free_ = nullptr;
  bool starved_ = false;  // chains may wait in the rings for a free slot
  uint32_t in_flight_ = 0;
  uint64_t sequence_ = 0;  // of requests, as they came
  std::list<TaskRequest> tasks_;
  std::deque<Event> events_;
  bool events_missed_ = false;
  std::binary_semaphore idle_{0};  // released once when stopping and nothing is in flight
};

}  // namespace plumb
