#include "vmm/vcpu.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>

#include "vmm/boot/cpu_tables.h"
#include "vmm/kvm.h"

namespace plumb {
namespace {

constexpr uint64_t kCr0Pe = 1U << 0U;
constexpr uint64_t kCr0Et = 1U << 4U;
constexpr uint64_t kCr0Pg = 1U << 31U;
constexpr uint64_t kCr4Pae = 1U << 5U;
constexpr uint64_t kEferLme = 1U << 8U;
constexpr uint64_t kEferLma = 1U << 10U;

constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint32_t kMsrMtrrDefType = 0x2ff;

kvm_segment segment(uint16_t selector, uint8_t type, bool long_mode) {
  kvm_segment made{};
  made.base = 0;
  made.limit = 0xffffffff;
  made.selector = selector;
  made.type = type;
  made.present = 1;
  made.s = 1;
  made.g = 1;
  made.l = long_mode ? 1 : 0;
  made.db = long_mode ? 0 : 1;
  return made;
}

void set_segments(kvm_sregs& sregs, bool long_mode) {
  sregs.cs = segment(kCodeSelector, 0xb, long_mode);
  const kvm_segment data = segment(kDataSelector, 0x3, false);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  // VMX refuses to enter a guest whose task register is not a busy TSS (SDM 26.3.1.2).
  sregs.tr = kvm_segment{};
  sregs.tr.limit = 0x67;
  sregs.tr.type = 0xb;
  sregs.tr.present = 1;
}

}  // namespace

Result<std::unique_ptr<Vcpu>> Vcpu::create(const Config& config) {
  std::unique_ptr<Vcpu> vcpu(new Vcpu(config));
  vcpu->fd_ = UniqueFd(kvm_ioctl(config.vm_fd, KVM_CREATE_VCPU, static_cast<long>(config.id)));
  if (!vcpu->fd_) return os_error(errno, "KVM cannot create vCPU {}", config.id);
  void* area =
      ::mmap(nullptr, config.run_area_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd_.get(), 0);
  if (area == MAP_FAILED) return os_error(errno, "vCPU {}'s run area cannot be mapped", config.id);
  vcpu->run_ = static_cast<kvm_run*>(area);
  return vcpu;
}

Vcpu::~Vcpu() {
  if (run_ != nullptr) ::munmap(run_, config_.run_area_size);
}

Result<> Vcpu::set_cpuid(const std::vector<kvm_cpuid_entry2>& entries) {
  std::vector<std::byte> table = kvm_array<kvm_cpuid_entry2>(entries);
  if (kvm_ioctl(fd_.get(), kKvmSetCpuid2, table.data()) != 0) {
    return os_error(errno, "KVM refuses the CPU features of vCPU {}", id());
  }
  return {};
}

Result<> Vcpu::set_start(const CpuStart& start) {
  TRY(set_msrs());
  TRY(set_local_apic());
  const bool long_mode = start.mode == CpuStart::Mode::kLong64;
  kvm_sregs sregs{};
  if (kvm_ioctl(fd_.get(), KVM_GET_SREGS, &sregs) != 0) {
    return os_error(errno, "KVM does not give vCPU {}'s registers", id());
  }
  set_segments(sregs, long_mode);
  sregs.gdt.base = start.gdt;
  sregs.gdt.limit = kGdtSize - 1;
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cr0 = kCr0Pe | kCr0Et;
  if (long_mode) {
    sregs.cr0 |= kCr0Pg;
    sregs.cr3 = start.page_tables;
    sregs.cr4 = kCr4Pae;
    sregs.efer = kEferLme | kEferLma;
  }
  kvm_regs regs{};
  regs.rip = start.instruction;
  regs.rflags = 2;  // the bit that is always one
  (long_mode ? regs.rsi : regs.rbx) = start.argument;
  if (kvm_ioctl(fd_.get(), KVM_SET_SREGS, &sregs) != 0 ||
      kvm_ioctl(fd_.get(), KVM_SET_REGS, &regs) != 0) {
    return os_error(errno, "KVM refuses vCPU {}'s registers", id());
  }
  return {};
}

Result<> Vcpu::set_msrs() {
  const kvm_msr_entry entries[] = {
      {.index = kMsrMiscEnable, .reserved = 0, .data = 1},  // fast strings
      // Memory is write-back where no other type is asked for (SDM volume 3, 12.11.2.1); with
      // MTRRs off Linux would turn PAT off as well.
      {.index = kMsrMtrrDefType, .reserved = 0, .data = (1U << 11U) | 6U},
  };
  std::vector<std::byte> table = kvm_array<kvm_msr_entry>(entries);
  // The result is how many were taken: a KVM that knows neither MSR runs guests all the same.
  if (kvm_ioctl(fd_.get(), kKvmSetMsrs, table.data()) < 0) {
    return os_error(errno, "KVM refuses vCPU {}'s MSRs", id());
  }
  return {};
}

// Virtual wire mode (MultiProcessor Specification 1.4, section 3.6.2.1): the PIC's interrupts
// come in at LINT0, NMI at LINT1.
Result<> Vcpu::set_local_apic() {
  constexpr size_t kLint0 = 0x350;
  constexpr size_t kLint1 = 0x360;
  constexpr uint32_t kNmi = 4U << 8U;
  constexpr uint32_t kExtInt = 7U << 8U;
  kvm_lapic_state lapic{};
  if (kvm_ioctl(fd_.get(), KVM_GET_LAPIC, &lapic) != 0) {
    return os_error(errno, "KVM does not give vCPU {}'s local APIC", id());
  }
  store_le<uint32_t>(lapic.regs + kLint0, kExtInt);
  store_le<uint32_t>(lapic.regs + kLint1, kNmi);
  if (kvm_ioctl(fd_.get(), KVM_SET_LAPIC, &lapic) != 0) {
    return os_error(errno, "KVM refuses vCPU {}'s local APIC", id());
  }
  return {};
}

void Vcpu::kick() { std::atomic_ref(run_->immediate_exit).store(1); }
void Vcpu::clear_kick() { std::atomic_ref(run_->immediate_exit).store(0); }
// An error means that the guest does not use the KVM clock, and so needs no telling.
void Vcpu::tell_paused() { kvm_ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0); }

std::optional<Stopped> Vcpu::run() {
  while (true) {
    if (::ioctl(fd_.get(), KVM_RUN, 0) != 0) {
      // EAGAIN: a vCPU that waited for its start-up IPI has got it.
      if (errno == EAGAIN) continue;
      if (errno != EINTR) return crash(os_error(errno, "KVM cannot run the guest").message);
      if (std::atomic_ref(run_->immediate_exit).load() != 0) return std::nullopt;
      continue;
    }
    std::optional<Stopped> stopped = handle_exit();
    if (stopped) return stopped;
  }
}

std::optional<Stopped> Vcpu::handle_exit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      handle_port();
      return std::nullopt;
    case KVM_EXIT_MMIO:
      handle_mmio();
      return std::nullopt;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return std::nullopt;
    case KVM_EXIT_SHUTDOWN:
      return crash("triple fault");
    case KVM_EXIT_SYSTEM_EVENT:
      return handle_system_event();
    case KVM_EXIT_FAIL_ENTRY:
      return crash(fmt::format("KVM cannot enter the guest (hardware reason {:#x})",
                               run_->fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTERNAL_ERROR:
      return crash(fmt::format("KVM cannot go on (internal error {}{})", run_->internal.suberror,
                               run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                                   ? ", an instruction that it cannot emulate"
                                   : ""));
    default:
      return crash(
          fmt::format("KVM stopped for a reason plumb does not know ({})", run_->exit_reason));
  }
}

std::optional<Stopped> Vcpu::handle_system_event() {
  switch (run_->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      return Stopped{StopReason::kPowerOff, {}};
    case KVM_SYSTEM_EVENT_RESET:
      return Stopped{StopReason::kReset, {}};
    default:
      return crash(fmt::format("system event {}", run_->system_event.type));
  }
}

void Vcpu::handle_port() {
  auto* data = reinterpret_cast<std::byte*>(run_) + run_->io.data_offset;
  // A string instruction brings several items for one port.
  for (uint32_t item = 0; item < run_->io.count; ++item, data += run_->io.size) {
    if (run_->io.direction == KVM_EXIT_IO_OUT) {
      config_.ports->write(run_->io.port, {data, run_->io.size});
    } else {
      config_.ports->read(run_->io.port, {data, run_->io.size});
    }
  }
}

void Vcpu::handle_mmio() {
  auto* data = reinterpret_cast<std::byte*>(run_->mmio.data);
  const size_t length = std::min<size_t>(run_->mmio.len, sizeof(run_->mmio.data));
  if (run_->mmio.is_write != 0) {
    config_.mmio->write(run_->mmio.phys_addr, {data, length});
  } else {
    config_.mmio->read(run_->mmio.phys_addr, {data, length});
  }
}

Stopped Vcpu::crash(std::string what) {
  kvm_regs regs{};
  kvm_ioctl(fd_.get(), KVM_GET_REGS, &regs);
  return {StopReason::kCrash, fmt::format("{} on vCPU {} at RIP {:#x}", what, id(), regs.rip)};
}

}  // namespace plumb
