// VirtioRng: the entropy device (virtio 1.2, section 5.4): random bytes of the host's kernel.
#pragma once

#include <array>

#include "vmm/virtio/device_queues.h"

namespace plumb {

class VirtioRng final : public VirtioDevice {
 public:
  // The most that one request gets; a driver that wants more asks again.
  static constexpr uint32_t kMaxBytes = 64U << 10U;

  // `thread` outlives the device.
  explicit VirtioRng(IoThread& thread);
  ~VirtioRng() override { reset(); }

  uint16_t device_id() const override { return kVirtioIdRng; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  // There is no configuration space.
  void read_config(uint32_t offset, std::span<std::byte> data) override;
  void write_config(uint32_t, std::span<const std::byte>) override {}
  Result<> activate(const VirtioActivation& activation) override;
  void reset() override;

 private:
  static constexpr std::array<uint16_t, 1> kQueueSizes{64};

  void serve();

  DeviceQueues queues_;
};

}  // namespace plumb
