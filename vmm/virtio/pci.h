// VirtioPci: a virtio device as a PCI function (virtio 1.2, section 4.1), modern only: one
// 64-bit BAR with common configuration, ISR, device configuration, doorbells and MSI-X.
#pragma once

#include <memory>
#include <mutex>

#include "vmm/event_router.h"
#include "vmm/pci/function.h"
#include "vmm/pci/msix.h"
#include "vmm/virtio/pci_common.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

class VirtioPci : public PciFunction, public BusHandler {
 public:
  // `memory` and `router` outlive this.
  static Result<std::unique_ptr<VirtioPci>> create(std::unique_ptr<VirtioDevice> device,
                                                   const GuestMemory& memory, EventRouter& router);
  ~VirtioPci() override;

  // BusHandler: the BAR.
  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

 protected:
  void config_will_be_read(uint32_t offset, size_t length) override;
  void config_written(uint32_t offset, size_t length) override;
  void disconnected() override { msix_.release_routes(); }
  void bar_moved(unsigned index, bool mapped, uint64_t address) override;

 private:
  VirtioPci(std::unique_ptr<VirtioDevice> device, EventRouter& router);
  void add_capabilities();
  void add_region(uint8_t type, uint32_t offset, uint32_t length,
                  std::span<const std::byte> more = {});
  // The part of the BAR that the pci_cfg window shows; empty when it shows none.
  struct Window {
    uint32_t offset = 0;
    uint32_t length = 0;
  };
  Window window() const;
  void update_doorbells();

  std::unique_ptr<VirtioDevice> device_;
  EventRouter& router_;
  MsixTable msix_;
  std::unique_ptr<VirtioPciCommon> common_;
  uint8_t msix_capability_ = 0;
  uint8_t window_capability_ = 0;

  std::mutex doorbell_mutex_;  // guards all below
  bool active_ = false;        // between DRIVER_OK and reset
  bool mapped_ = false;
  uint64_t bar_address_ = 0;
  uint64_t doorbells_at_ = 0;  // 0: not registered
};

}  // namespace plumb
