// VirtioNet: the network device (virtio 1.2, section 5.1) over a tap interface: one pair of queues,
// merged receive buffers, checksum and segmentation offloads where the tap has them.
//
// Frames go to the tap straight from the guest's buffers, and come through one buffer of our own.
// Without a buffer of the guest frames wait in the tap, which drops what is too much.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/virtio/device_queues.h"
#include "vmm/virtio/tap.h"

namespace plumb {

class VirtioNet final : public VirtioDevice {
 public:
  static constexpr uint32_t kHeaderBytes = 12;
  // A frame with the largest segment that is offloaded.
  static constexpr uint32_t kMaxFrameBytes = kHeaderBytes + 65536 + 18;

  // `tap` is from open_tap(), or reads and writes one frame at a time as that does. `thread`
  // outlives the device.
  VirtioNet(UniqueFd tap, const MacAddress& mac, IoThread& thread);
  ~VirtioNet() override { reset(); }

  uint16_t device_id() const override { return kVirtioIdNet; }
  uint64_t features() const override { return features_; }
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint32_t offset, std::span<std::byte> data) override;
  void write_config(uint32_t, std::span<const std::byte>) override {}
  Result<> activate(const VirtioActivation& activation) override;
  void reset() override;

 private:
  static constexpr std::array<uint16_t, 2> kQueueSizes{256, 256};
  // Receive buffers that one frame is spread over; more means a driver with silly ones.
  static constexpr size_t kMaxMerged = 64;
  // Frames taken from the tap in one turn of the loop.
  static constexpr int kFramesPerTurn = 64;

  void start(uint64_t features);
  void stop();
  void transmit();
  void receive();
  bool read_frame();
  bool deliver_frame();
  void watch_tap(bool on);

  const UniqueFd tap_;
  const MacAddress mac_;
  uint64_t features_ = 0;
  DeviceQueues queues_;

  // Only on the I/O thread.
  bool merge_ = false;    // MRG_RXBUF negotiated
  bool watched_ = false;  // the tap is
  bool tap_gone_ = false;
  std::vector<std::byte> frame_;
  size_t frame_bytes_ = 0;               // of a frame that waits for buffers; 0: none
  std::vector<VirtqueueChain> buffers_;  // taken for it; kMaxMerged reserved
};

}  // namespace plumb
