#include "vmm/virtio/pci_common.h"

#include <array>
#include <bit>

#include "base/endian.h"
#include "base/file.h"
#include "base/log.h"
#include "vmm/bus.h"

namespace plumb {
namespace {

// Offsets of struct virtio_pci_common_cfg (4.1.4.3).
constexpr uint64_t kDeviceFeatureSelect = 0x00;
constexpr uint64_t kDeviceFeature = 0x04;
constexpr uint64_t kDriverFeatureSelect = 0x08;
constexpr uint64_t kDriverFeature = 0x0c;
constexpr uint64_t kConfigVector = 0x10;
constexpr uint64_t kNumQueues = 0x12;
constexpr uint64_t kDeviceStatus = 0x14;
constexpr uint64_t kConfigGeneration = 0x15;
constexpr uint64_t kQueueSelect = 0x16;
constexpr uint64_t kQueueSize = 0x18;
constexpr uint64_t kQueueVector = 0x1a;
constexpr uint64_t kQueueEnable = 0x1c;
constexpr uint64_t kQueueNotifyOffset = 0x1e;
constexpr uint64_t kQueueDesc = 0x20;
constexpr uint64_t kQueueDriver = 0x28;
constexpr uint64_t kQueueDevice = 0x30;

constexpr uint8_t kIsrQueue = 1;
constexpr uint8_t kIsrConfig = 2;

// Whether [offset, offset + width) is one register, or a half of a 64-bit one.
bool whole_register(uint64_t offset, size_t width) {
  if (offset >= kQueueDesc && offset < kQueueDevice + 8) {
    return (width == 8 && offset % 8 == 0) || (width == 4 && offset % 4 == 0);
  }
  if (offset < kConfigVector) return width == 4 && offset % 4 == 0;
  if (offset == kDeviceStatus) return width == 1;
  return width == 2 && offset % 2 == 0;
}

}  // namespace

Result<std::unique_ptr<VirtioPciCommon>> VirtioPciCommon::create(Config config) {
  std::unique_ptr<VirtioPciCommon> common(new VirtioPciCommon(std::move(config)));
  const std::span<const uint16_t> sizes = common->config_.device->queue_sizes();
  for (const uint16_t size : sizes) {
    ENSURE(std::has_single_bit(size));
    common->kick_fds_.push_back(TRY(make_eventfd()));
    common->queues_.push_back({.size = size, .kick_fd = common->kick_fds_.back().get()});
  }
  common->queue_vectors_ = std::make_unique<std::atomic<uint16_t>[]>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) common->queue_vectors_[i] = kVirtioNoVector;
  return common;
}

VirtioPciCommon::~VirtioPciCommon() { config_.device->reset(); }

void VirtioPciCommon::read(uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, kVirtioPciCommonSize> image{};
  {
    const std::lock_guard lock(mutex_);
    const auto put = [&image](uint64_t at, auto value) { store_le(&image[at], value); };
    const uint64_t offered = config_.device->features();
    const auto half = [](uint64_t features, uint32_t select) {
      return select < 2 ? static_cast<uint32_t>(features >> (32 * select)) : 0U;
    };
    put(kDeviceFeatureSelect, device_feature_select_);
    put(kDeviceFeature, half(offered, device_feature_select_));
    put(kDriverFeatureSelect, driver_feature_select_);
    put(kDriverFeature, half(driver_features_, driver_feature_select_));
    put(kConfigVector, config_vector_.load());
    put(kNumQueues, static_cast<uint16_t>(queues_.size()));
    put(kDeviceStatus, status_.load());
    put(kConfigGeneration, generation_.load());
    put(kQueueSelect, queue_select_);
    // A queue that is not there has size 0, and no more to say.
    if (queue_select_ < queues_.size()) {
      const VirtioQueueSetup& queue = queues_[queue_select_];
      put(kQueueSize, queue.size);
      put(kQueueVector, queue_vectors_[queue_select_].load());
      put(kQueueEnable, static_cast<uint16_t>(queue.enabled ? 1 : 0));
      put(kQueueNotifyOffset, queue_select_);
      put(kQueueDesc, queue.descriptors);
      put(kQueueDriver, queue.driver_ring);
      put(kQueueDevice, queue.device_ring);
    } else {
      put(kQueueVector, kVirtioNoVector);
    }
  }
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = offset + i < image.size() ? image[offset + i] : std::byte{0};
  }
}

void VirtioPciCommon::write(uint64_t offset, std::span<const std::byte> data) {
  if (!whole_register(offset, data.size())) return;
  const std::lock_guard lock(mutex_);
  write_register(offset, data.size(), load_access(data));
}

void VirtioPciCommon::write_register(uint64_t offset, size_t width, uint64_t value) {
  switch (offset) {
    case kDeviceFeatureSelect:
      device_feature_select_ = static_cast<uint32_t>(value);
      return;
    case kDriverFeatureSelect:
      driver_feature_select_ = static_cast<uint32_t>(value);
      return;
    case kDriverFeature:
      write_driver_features(static_cast<uint32_t>(value));
      return;
    case kConfigVector:
      config_vector_ = checked_vector(value);
      return;
    case kDeviceStatus:
      write_status(static_cast<uint8_t>(value));
      return;
    case kQueueSelect:
      queue_select_ = static_cast<uint16_t>(value);
      return;
    default:
      write_queue(offset, width, value);
      return;
  }
}

void VirtioPciCommon::write_driver_features(uint32_t value) {
  // After FEATURES_OK they are agreed (3.1.1, step 5).
  if ((status_ & kVirtioFeaturesOk) != 0 || driver_feature_select_ > 1) return;
  const unsigned shift = 32 * driver_feature_select_;
  driver_features_ =
      (driver_features_ & ~(0xffffffffULL << shift)) | (static_cast<uint64_t>(value) << shift);
}

void VirtioPciCommon::write_queue(uint64_t offset, size_t width, uint64_t value) {
  if (queue_select_ >= queues_.size()) return;
  if (offset == kQueueVector) {
    queue_vectors_[queue_select_] = checked_vector(value);
    return;
  }
  VirtioQueueSetup& queue = queues_[queue_select_];
  if (queue.enabled || (status_ & kVirtioDriverOk) != 0) return;
  const auto set_address = [&](uint64_t register_at, GuestAddress& address) {
    const unsigned shift = offset == register_at ? 0 : 32;
    const uint64_t mask = width == 8 ? ~0ULL : 0xffffffffULL << shift;
    address = (address & ~mask) | ((value << shift) & mask);
  };
  switch (offset) {
    case kQueueSize: {
      const auto size = static_cast<uint16_t>(value);
      const uint16_t largest = config_.device->queue_sizes()[queue_select_];
      if (std::has_single_bit(size) && size <= largest) queue.size = size;
      return;
    }
    case kQueueEnable:
      queue.enabled = value == 1;
      return;
    case kQueueDesc:
    case kQueueDesc + 4:
      set_address(kQueueDesc, queue.descriptors);
      return;
    case kQueueDriver:
    case kQueueDriver + 4:
      set_address(kQueueDriver, queue.driver_ring);
      return;
    case kQueueDevice:
    case kQueueDevice + 4:
      set_address(kQueueDevice, queue.device_ring);
      return;
    default:
      return;  // read-only registers
  }
}

// A vector that the table does not have reads back as "none", by which the driver sees that it
// was not taken (4.1.5.1.2).
uint16_t VirtioPciCommon::checked_vector(uint64_t value) const {
  return value < config_.msix->vectors() ? static_cast<uint16_t>(value) : kVirtioNoVector;
}

bool VirtioPciCommon::features_acceptable() const {
  return (driver_features_ & ~config_.device->features()) == 0 &&
         (driver_features_ & kVirtioFVersion1) != 0;
}

void VirtioPciCommon::write_status(uint8_t value) {
  if (value == 0) {
    reset();
    return;
  }
  // A driver only ever adds bits (2.1.1), and NEEDS_RESET is the device's.
  unsigned added = value & ~status_.load() & ~unsigned{kVirtioNeedsReset};
  if ((added & kVirtioFeaturesOk) != 0 && !features_acceptable()) added &= ~kVirtioFeaturesOk;
  const bool agreed = ((status_ | added) & kVirtioFeaturesOk) != 0;
  if ((added & kVirtioDriverOk) != 0 && !agreed) added &= ~kVirtioDriverOk;
  status_.fetch_or(static_cast<uint8_t>(added));
  if ((added & kVirtioDriverOk) != 0) activate();
}

void VirtioPciCommon::activate() {
  config_.set_doorbells(true);
  const VirtioActivation activation{
      .features = driver_features_, .queues = queues_, .memory = config_.memory, .interrupt = this};
  Result<> activated = config_.device->activate(activation);
  if (activated) return;
  log::warning("virtio device {} cannot be used as the guest set it up: {}",
               config_.device->device_id(), activated.error().message);
  needs_reset();
}

void VirtioPciCommon::reset() {
  // Waits for the device's thread, which may signal meanwhile, and needs no lock for that.
  config_.device->reset();
  config_.set_doorbells(false);
  for (size_t i = 0; i < queues_.size(); ++i) {
    drain_eventfd(kick_fds_[i].get());
    queues_[i] = {.size = config_.device->queue_sizes()[i], .kick_fd = kick_fds_[i].get()};
    queue_vectors_[i] = kVirtioNoVector;
  }
  config_vector_ = kVirtioNoVector;
  device_feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  queue_select_ = 0;
  isr_ = 0;
  status_ = 0;
}

void VirtioPciCommon::kick(uint64_t queue) {
  // kick_fds_ never changes, so this needs no lock; a kick for a queue that nobody serves only
  // sets a counter, which reset clears.
  if (queue < kick_fds_.size()) signal_eventfd(kick_fds_[queue].get());
}

void VirtioPciCommon::signal_queue(uint16_t queue) {
  ENSURE(queue < kick_fds_.size());
  isr_.fetch_or(kIsrQueue);
  config_.msix->signal(queue_vectors_[queue]);
}

void VirtioPciCommon::signal_config() {
  generation_.fetch_add(1);
  isr_.fetch_or(kIsrConfig);
  config_.msix->signal(config_vector_);
}

void VirtioPciCommon::needs_reset() {
  status_.fetch_or(kVirtioNeedsReset);
  // Before DRIVER_OK the device must not notify (2.1.2).
  if ((status_ & kVirtioDriverOk) != 0) signal_config();
}

}  // namespace plumb
