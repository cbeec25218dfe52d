// A virtio-pci function whose device only notes what it is told, and a driver for it.
#pragma once

#include <poll.h>

#include <memory>
#include <vector>

#include "base/size.h"
#include "tests/fakes/pci_driver.h"

namespace plumb {

inline constexpr uint64_t kTestFeature = 1ULL << 5U;

struct TestDeviceLog {
  int activations = 0;
  int resets = 0;
  uint64_t features = 0;
  std::vector<VirtioQueueSetup> queues;
  VirtioInterrupt* interrupt = nullptr;
  bool refuse = false;
  uint64_t config_written = 0;
};

class TestDevice : public VirtioDevice {
 public:
  explicit TestDevice(TestDeviceLog& log) : log_(log) {}
  uint16_t device_id() const override { return kVirtioIdBlk; }
  uint64_t features() const override { return kVirtioFVersion1 | kTestFeature; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> data) override {
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = offset + i < 8 ? static_cast<std::byte>(0xa0 + offset + i) : std::byte{0};
    }
  }
  void write_config(uint32_t /*offset*/, std::span<const std::byte> data) override {
    log_.config_written = load_access(data);
  }
  Result<> activate(const VirtioActivation& activation) override {
    ++log_.activations;
    log_.features = activation.features;
    log_.queues.assign(activation.queues.begin(), activation.queues.end());
    log_.interrupt = activation.interrupt;
    if (log_.refuse) return failed("a queue is outside the guest's memory");
    return {};
  }
  void reset() override { ++log_.resets; }

 private:
  TestDeviceLog& log_;
  const uint16_t sizes_[2] = {256, 64};
};

struct PciFixtureGuest {
  std::unique_ptr<GuestMemory> memory = GuestMemory::create({.size_bytes = 2 * kMiB}).value();
  TestDeviceLog log;
};

struct PciFixture : private PciFixtureGuest, PciDriver {
  PciFixture() : PciDriver(std::make_unique<TestDevice>(PciFixtureGuest::log), *memory) {}
  using PciFixtureGuest::log;

  void set_queue(uint16_t queue, uint16_t size, uint64_t at) {
    PciDriver::set_queue(
        queue,
        {.size = size, .descriptors = at, .driver_ring = at + 0x1000, .device_ring = at + 0x2000});
  }
  // The whole of it: both queues, a vector for each, MSI-X on.
  void start() {
    negotiate();
    set_vectors(3);
    write<uint16_t>(common + 0x10, 0);
    for (uint16_t queue = 0; queue < 2; ++queue) {
      set_queue(queue, 64, 0x10000U + 0x10000U * queue);
      write<uint16_t>(common + 0x1a, queue + 1);
    }
    go();
  }
};

inline bool is_signalled(int fd) {
  pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, 0) == 1;
}

}  // namespace plumb
