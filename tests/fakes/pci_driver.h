// The driver's half of virtio-pci (virtio 1.2, section 4.1): a machine with one virtio function,
// its configuration space by ECAM, its registers by MMIO. Everything a real driver must not do can
// be done, too.
#pragma once

#include <memory>

#include "base/check.h"
#include "tests/fakes/fake_events.h"
#include "vmm/layout.h"
#include "vmm/pci/pci_bus.h"
#include "vmm/virtio/pci.h"

namespace plumb {

// Offsets in the common configuration (4.1.4.3).
namespace common_cfg {
inline constexpr uint32_t kDeviceFeatureSelect = 0x00;
inline constexpr uint32_t kDeviceFeature = 0x04;
inline constexpr uint32_t kDriverFeatureSelect = 0x08;
inline constexpr uint32_t kDriverFeature = 0x0c;
inline constexpr uint32_t kConfigVector = 0x10;
inline constexpr uint32_t kNumQueues = 0x12;
inline constexpr uint32_t kStatus = 0x14;
inline constexpr uint32_t kGeneration = 0x15;
inline constexpr uint32_t kQueueSelect = 0x16;
inline constexpr uint32_t kQueueSize = 0x18;
inline constexpr uint32_t kQueueVector = 0x1a;
inline constexpr uint32_t kQueueEnable = 0x1c;
inline constexpr uint32_t kQueueDesc = 0x20;  // then driver and device ring, 8 bytes each
}  // namespace common_cfg

inline constexpr uint8_t kPciDriverReady = kVirtioAcknowledge | kVirtioDriver;
inline constexpr uint32_t kPciMsixTable = 0x4000;  // where VirtioPci has it
inline constexpr uint32_t kPciMsixPending = 0x5000;

struct PciDriver {
  static constexpr uint32_t kSlot = 1;

  FakeEvents events;
  Bus mmio;
  PciBus pci{mmio};
  uint64_t bar = layout::kPciWindow;
  uint32_t common = 0, isr = 0, device = 0, notify = 0, window = 0, msix = 0;

  // `memory` outlives this.
  PciDriver(std::unique_ptr<VirtioDevice> made, const GuestMemory& memory) {
    ENSURE(pci.add(VirtioPci::create(std::move(made), memory, events).value()).ok());
    for (auto at = config<uint8_t>(0x34); at != 0; at = config<uint8_t>(at + 1U)) {
      if (config<uint8_t>(at) == kPciCapMsix) msix = at;
      if (config<uint8_t>(at) != 0x09) continue;
      uint32_t* const regions[] = {nullptr, &common, &notify, &isr, &device, &window};
      const auto type = config<uint8_t>(at + 3U);
      ENSURE(type >= 1 && type <= 5);
      *regions[type] = type == 5 ? at : config<uint32_t>(at + 8U);
    }
  }

  template <typename T>
  T config(uint32_t offset) {
    std::byte data[sizeof(T)];
    pci.ecam().read(kSlot << 15U | offset, data);
    return load_le<T>(data);
  }
  template <typename T>
  void set_config(uint32_t offset, T value) {
    std::byte data[sizeof(T)];
    store_le(data, value);
    pci.ecam().write(kSlot << 15U | offset, data);
  }
  template <typename T>
  T read(uint64_t offset) {
    std::byte data[sizeof(T)];
    mmio.read(bar + offset, data);
    return load_le<T>(data);
  }
  template <typename T>
  void write(uint64_t offset, T value) {
    std::byte data[sizeof(T)];
    store_le(data, value);
    mmio.write(bar + offset, data);
  }

  uint8_t status() { return read<uint8_t>(common + common_cfg::kStatus); }
  void set_status(uint8_t value) { write<uint8_t>(common + common_cfg::kStatus, value); }
  void set_features(uint64_t features) {
    for (uint32_t half = 0; half < 2; ++half) {
      write<uint32_t>(common + common_cfg::kDriverFeatureSelect, half);
      write<uint32_t>(common + common_cfg::kDriverFeature,
                      static_cast<uint32_t>(features >> (32 * half)));
    }
  }
  void negotiate(uint64_t features = kVirtioFVersion1) {
    set_status(kVirtioAcknowledge);
    set_status(kPciDriverReady);
    set_features(features);
    set_status(kPciDriverReady | kVirtioFeaturesOk);
  }
  void go() { set_status(kPciDriverReady | kVirtioFeaturesOk | kVirtioDriverOk); }

  void select(uint16_t queue) { write<uint16_t>(common + common_cfg::kQueueSelect, queue); }
  // A 64-bit register, by halves: 0 the descriptors, 1 the driver's, 2 the device's ring.
  void set_ring(uint32_t ring, uint64_t address) {
    const uint32_t at = common + common_cfg::kQueueDesc + 8 * ring;
    write<uint32_t>(at, static_cast<uint32_t>(address));
    write<uint32_t>(at + 4, static_cast<uint32_t>(address >> 32U));
  }
  uint64_t ring(uint32_t ring) {
    return read<uint64_t>(common + common_cfg::kQueueDesc + 8 * ring);
  }
  void set_queue(uint16_t queue, const VirtioQueueSetup& setup) {
    select(queue);
    write<uint16_t>(common + common_cfg::kQueueSize, setup.size);
    set_ring(0, setup.descriptors);
    set_ring(1, setup.driver_ring);
    set_ring(2, setup.device_ring);
    write<uint16_t>(common + common_cfg::kQueueEnable, 1);
  }
  // MSI-X on, `count` vectors that send 0x40, 0x41, …
  void set_vectors(uint32_t count) {
    set_config<uint16_t>(msix + 2, kMsixEnable);
    for (uint32_t vector = 0; vector < count; ++vector) {
      write<uint32_t>(kPciMsixTable + 16 * vector, 0xfee00000);
      write<uint32_t>(kPciMsixTable + 16 * vector + 8, 0x40 + vector);
      write<uint32_t>(kPciMsixTable + 16 * vector + 12, 0);
    }
  }
};

}  // namespace plumb
