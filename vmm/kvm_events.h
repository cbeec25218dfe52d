// KvmEvents: interrupt routing and doorbells of one VM on KVM.
#pragma once

#include <linux/kvm.h>

#include <memory>
#include <mutex>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/event_router.h"

namespace plumb {

class KvmEvents : public EventRouter {
 public:
  struct Config {
    int vm_fd = -1;           // with its in-kernel interrupt controllers; outlives this
    bool any_length = false;  // KVM_CAP_IOEVENTFD_ANY_LENGTH
    uint32_t max_routes = 0;  // KVM_CAP_IRQ_ROUTING
  };
  static Result<std::unique_ptr<KvmEvents>> create(const Config& config);

  Result<uint32_t> add_msi(int fd, const MsiMessage& message) override;
  Result<> change_msi(uint32_t handle, const MsiMessage& message) override;
  void remove_msi(uint32_t handle, int fd) override;
  bool add_doorbell(uint64_t address, int fd) override;
  void remove_doorbell(uint64_t address, int fd) override;

  // Each signal on `fd` is a pulse on an edge-triggered IOAPIC pin (and PIC line).
  Result<> add_edge(int fd, uint32_t gsi);
  // Drives a level-triggered pin. Any thread.
  void set_level(uint32_t gsi, bool asserted);

 private:
  explicit KvmEvents(const Config& config) : config_(config) {}
  void add_chip_route(uint32_t gsi, uint32_t chip, uint32_t pin);
  Result<> commit();
  bool doorbell(uint64_t address, int fd, uint32_t flags);

  const Config config_;
  std::mutex mutex_;
  std::vector<kvm_irq_routing_entry> routes_;  // guarded by mutex_
  uint32_t first_msi_route_ = 0;
  std::vector<uint32_t> free_msi_;  // handles; guarded by mutex_
};

}  // namespace plumb
