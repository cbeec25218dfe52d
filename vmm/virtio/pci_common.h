// VirtioPciCommon: the common configuration structure of virtio-pci, which is the state machine
// between driver and device. Source: virtio 1.2, sections 2.1, 2.2, 3.1 and 4.1.4.3.
//
// The driver sets queues up only between FEATURES_OK and DRIVER_OK; from DRIVER_OK on the device
// uses them, and what is written to their registers is ignored until a reset. So a queue's
// addresses never change under the device.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/pci/msix.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

// Device status bits (2.1).
inline constexpr uint8_t kVirtioAcknowledge = 1;
inline constexpr uint8_t kVirtioDriver = 2;
inline constexpr uint8_t kVirtioDriverOk = 4;
inline constexpr uint8_t kVirtioFeaturesOk = 8;
inline constexpr uint8_t kVirtioNeedsReset = 64;
inline constexpr uint8_t kVirtioFailed = 128;

inline constexpr uint16_t kVirtioNoVector = 0xffff;
inline constexpr uint32_t kVirtioPciCommonSize = 0x40;

class VirtioPciCommon : public VirtioInterrupt {
 public:
  struct Config {
    VirtioDevice* device = nullptr;
    const GuestMemory* memory = nullptr;
    MsixTable* msix = nullptr;
    // The device is about to be activated, or has been reset: doorbells on or off.
    std::function<void(bool on)> set_doorbells;
  };
  static Result<std::unique_ptr<VirtioPciCommon>> create(Config config);
  // Resets the device.
  ~VirtioPciCommon() override;

  // The registers; vCPU threads. Reads of any width; writes only of whole registers, or halves
  // of 64-bit ones, as 4.1.3.1 has drivers do; others are ignored.
  void read(uint64_t offset, std::span<std::byte> data);
  void write(uint64_t offset, std::span<const std::byte> data);

  // A doorbell that did not come as an ioeventfd. Any queue number.
  void kick(uint64_t queue);
  // The ISR status, which reading clears (4.1.4.5).
  uint8_t take_isr() { return isr_.exchange(0); }

  // One for each queue; fixed.
  std::span<const UniqueFd> kick_fds() const { return kick_fds_; }

  // VirtioInterrupt
  void signal_queue(uint16_t queue) override;
  void signal_config() override;
  void needs_reset() override;

 private:
  explicit VirtioPciCommon(Config config) : config_(std::move(config)) {}
  // All with mutex_ held.
  void write_register(uint64_t offset, size_t width, uint64_t value);
  void write_queue(uint64_t offset, size_t width, uint64_t value);
  void write_driver_features(uint32_t value);
  void write_status(uint8_t value);
  bool features_acceptable() const;
  void activate();
  void reset();
  uint16_t checked_vector(uint64_t value) const;

  const Config config_;
  std::vector<UniqueFd> kick_fds_;

  std::mutex mutex_;  // guards all below but the atomics; held while the device starts and resets
  uint32_t device_feature_select_ = 0;
  uint32_t driver_feature_select_ = 0;
  uint64_t driver_features_ = 0;
  uint16_t queue_select_ = 0;
  std::vector<VirtioQueueSetup> queues_;

  // Read and changed by the device's thread as well, without the lock.
  std::atomic<uint8_t> status_ = 0;
  std::atomic<uint8_t> isr_ = 0;
  std::atomic<uint8_t> generation_ = 0;
  std::atomic<uint16_t> config_vector_ = kVirtioNoVector;
  std::unique_ptr<std::atomic<uint16_t>[]> queue_vectors_;
};

}  // namespace plumb
