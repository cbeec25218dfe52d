#include "vmm/kvm_events.h"

#include <cstring>

#include "base/log.h"
#include "vmm/kvm.h"
#include "vmm/layout.h"

namespace plumb {
namespace {

kvm_irq_routing_entry msi_route(uint32_t gsi, const MsiMessage& message) {
  kvm_irq_routing_entry route{};
  route.gsi = gsi;
  route.type = KVM_IRQ_ROUTING_MSI;
  route.u.msi.address_lo = static_cast<uint32_t>(message.address);
  route.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32U);
  route.u.msi.data = message.data;
  return route;
}

}  // namespace

Result<std::unique_ptr<KvmEvents>> KvmEvents::create(const Config& config) {
  std::unique_ptr<KvmEvents> events(new KvmEvents(config));
  // As on PC hardware, the timer (IRQ 0) is on pin 2 of the IOAPIC; the MADT says so too.
  for (uint32_t irq = 0; irq < 16; ++irq) {
    events->add_chip_route(irq, irq < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, irq % 8);
    if (irq != 2) events->add_chip_route(irq, KVM_IRQCHIP_IOAPIC, irq == 0 ? 2 : irq);
  }
  for (uint32_t pin = 16; pin < layout::kFirstMsiGsi; ++pin) {
    events->add_chip_route(pin, KVM_IRQCHIP_IOAPIC, pin);
  }
  events->first_msi_route_ = static_cast<uint32_t>(events->routes_.size());
  TRY(events->commit());
  return events;
}

void KvmEvents::add_chip_route(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry route{};
  route.gsi = gsi;
  route.type = KVM_IRQ_ROUTING_IRQCHIP;
  route.u.irqchip.irqchip = chip;
  route.u.irqchip.pin = pin;
  routes_.push_back(route);
}

// The kernel takes the whole table each time; mutex_ is held, or no one else knows us yet.
Result<> KvmEvents::commit() {
  std::vector<std::byte> table = kvm_array<kvm_irq_routing_entry>(routes_);
  if (kvm_ioctl(config_.vm_fd, kKvmSetGsiRouting, table.data()) != 0) {
    return os_error(errno, "KVM refuses the interrupt routes");
  }
  return {};
}

Result<uint32_t> KvmEvents::add_msi(int fd, const MsiMessage& message) {
  const std::lock_guard lock(mutex_);
  if (free_msi_.empty()) {
    if (routes_.size() >= config_.max_routes) {
      return failed("the guest uses more than the {} interrupts that KVM can route",
                    config_.max_routes);
    }
    free_msi_.push_back(static_cast<uint32_t>(routes_.size()) - first_msi_route_);
    routes_.push_back(msi_route(layout::kFirstMsiGsi + free_msi_.back(), message));
  }
  const uint32_t handle = free_msi_.back();
  kvm_irq_routing_entry& route = routes_[first_msi_route_ + handle];
  route = msi_route(route.gsi, message);
  TRY(commit());
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = route.gsi;
  if (kvm_ioctl(config_.vm_fd, KVM_IRQFD, &irqfd) != 0) {
    return os_error(errno, "KVM refuses an irqfd");
  }
  free_msi_.pop_back();
  return handle;
}

// The route stays in the table, where nothing signals it, until the handle is given again.
void KvmEvents::remove_msi(uint32_t handle, int fd) {
  const std::lock_guard lock(mutex_);
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = routes_.at(first_msi_route_ + handle).gsi;
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  kvm_ioctl(config_.vm_fd, KVM_IRQFD, &irqfd);
  free_msi_.push_back(handle);
}

Result<> KvmEvents::change_msi(uint32_t handle, const MsiMessage& message) {
  const std::lock_guard lock(mutex_);
  kvm_irq_routing_entry& route = routes_.at(first_msi_route_ + handle);
  const kvm_irq_routing_entry before = route;
  route = msi_route(route.gsi, message);
  Result<> committed = commit();
  if (!committed) route = before;
  return committed;
}

bool KvmEvents::doorbell(uint64_t address, int fd, uint32_t flags) {
  kvm_ioeventfd ioeventfd{};
  ioeventfd.addr = address;
  // Length 0 matches any width, and lets KVM skip decoding the instruction where it can.
  ioeventfd.len = config_.any_length ? 0 : 2;
  ioeventfd.fd = fd;
  ioeventfd.flags = flags;
  return kvm_ioctl(config_.vm_fd, KVM_IOEVENTFD, &ioeventfd) == 0;
}

bool KvmEvents::add_doorbell(uint64_t address, int fd) {
  if (doorbell(address, fd, 0)) return true;
  log::warning("doorbell at {:#x} stays slow: {}", address, strerrordesc_np(errno));
  return false;
}

void KvmEvents::remove_doorbell(uint64_t address, int fd) {
  doorbell(address, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

Result<> KvmEvents::add_edge(int fd, uint32_t gsi) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = gsi;
  if (kvm_ioctl(config_.vm_fd, KVM_IRQFD, &irqfd) != 0) {
    return os_error(errno, "KVM refuses an irqfd for interrupt {}", gsi);
  }
  return {};
}

void KvmEvents::set_level(uint32_t gsi, bool asserted) {
  kvm_irq_level level{};
  level.irq = gsi;
  level.level = asserted ? 1 : 0;
  if (kvm_ioctl(config_.vm_fd, KVM_IRQ_LINE, &level) != 0) {
    log::warning("interrupt {} cannot be driven: {}", gsi, strerrordesc_np(errno));
  }
}

}  // namespace plumb
