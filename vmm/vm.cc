#include "vmm/vm.h"

#include <linux/kvm.h>

#include <algorithm>
#include <optional>
#include <span>

#include "vmm/acpi/tables.h"
#include "vmm/boot/loader.h"
#include "vmm/boot/smbios.h"
#include "vmm/cpuid.h"
#include "vmm/kvm.h"
#include "vmm/kvm_events.h"
#include "vmm/layout.h"
#include "vmm/machine.h"
#include "vmm/vcpu_group.h"
#include "vmm/vm_state.h"

namespace plumb {
namespace {

Result<> give_memory(int vm_fd, const GuestMemory& memory) {
  uint32_t slot = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    kvm_userspace_memory_region given{};
    given.slot = slot++;
    given.guest_phys_addr = region.start;
    given.memory_size = region.size_bytes;
    given.userspace_addr = reinterpret_cast<uint64_t>(region.host);
    if (kvm_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &given) != 0) {
      return os_error(errno, "KVM refuses the guest memory at {:#x}", region.start);
    }
  }
  return {};
}

// With the interrupt controllers and the timer inside KVM. Memory comes first: given after the
// others, it makes KVM wait for their grace period, which takes some milliseconds.
Result<UniqueFd> create_kvm_vm(const Kvm& kvm, const GuestMemory& memory) {
  UniqueFd vm = TRY(kvm.create_vm());
  TRY(give_memory(vm.get(), memory));
  uint64_t identity_map = layout::kIdentityMap;
  if (kvm_ioctl(vm.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0 ||
      kvm_ioctl(vm.get(), KVM_SET_TSS_ADDR, layout::kTss) != 0) {
    return os_error(errno, "KVM refuses the place of its own pages");
  }
  if (kvm_ioctl(vm.get(), KVM_CREATE_IRQCHIP, 0) != 0) {
    return os_error(errno, "KVM cannot create the interrupt controllers");
  }
  kvm_pit_config pit{};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;  // KVM serves port 0x61 too
  if (kvm_ioctl(vm.get(), KVM_CREATE_PIT2, &pit) != 0) {
    return os_error(errno, "KVM cannot create the timer");
  }
  return vm;
}

Result<std::vector<std::unique_ptr<Vcpu>>> create_vcpus(const Kvm& kvm, int vm_fd, unsigned count,
                                                        const Machine& machine) {
  std::vector<kvm_cpuid_entry2> cpuid = TRY(supported_cpuid(kvm));
  const size_t run_area_size = TRY(kvm.run_area_size());
  const bool tsc_deadline = kvm.capability(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (uint32_t id = 0; id < count; ++id) {
    vcpus.push_back(TRY(Vcpu::create({.vm_fd = vm_fd,
                                      .id = id,
                                      .run_area_size = run_area_size,
                                      .ports = &machine.ports(),
                                      .mmio = &machine.mmio()})));
    fit_cpuid(cpuid, {.apic_id = id, .vcpus = count, .tsc_deadline = tsc_deadline});
    TRY(vcpus.back()->set_cpuid(cpuid));
  }
  return vcpus;
}

// What firmware would have left for the kernel, below 1 MiB where the memory map keeps it.
void write_firmware_tables(const GuestMemory& memory, const Vm::Config& config) {
  const auto place = [&memory](std::span<const std::byte> bytes, uint64_t at, uint64_t end) {
    std::byte* to = memory.at(at, bytes.size());
    ENSURE(to != nullptr && at + bytes.size() <= end);
    std::copy(bytes.begin(), bytes.end(), to);
  };
  place(build_acpi_tables({.vcpus = config.vcpus, .address = layout::kAcpiTables}),
        layout::kAcpiTables, layout::kGenerationId);
  place(config.generation_id.guid_bytes(), layout::kGenerationId, layout::kSmbios);
  place(build_smbios({.uuid = config.uuid, .address = layout::kSmbios}), layout::kSmbios,
        layout::kHighRamStart);
}

}  // namespace

// Destroyed from the bottom up: first the vCPUs end, then the devices, then what they use.
struct Vm::State {
  Config config;
  VmStateMachine state;
  std::unique_ptr<GuestMemory> memory;
  UniqueFd vm_fd;
  std::unique_ptr<KvmEvents> events;
  std::unique_ptr<Machine> machine;
  std::unique_ptr<VcpuGroup> vcpus;
  std::optional<CpuStart> cpu_start;

  void stop(StopReason reason) { vcpus->stop({reason, {}}); }
};

Result<std::unique_ptr<Vm>> Vm::create(const Kvm& kvm, Config config) {
  if (config.vcpus < 1 || config.vcpus > kMaxVcpus) {
    return usage_error("{} vCPUs are not between 1 and {}", config.vcpus, kMaxVcpus);
  }
  auto state = std::make_unique<State>();
  state->memory = TRY(
      GuestMemory::create({.size_bytes = config.memory_bytes, .huge_pages = config.huge_pages}));
  state->vm_fd = TRY(create_kvm_vm(kvm, *state->memory));
  const int vm_fd = state->vm_fd.get();
  state->events = TRY(KvmEvents::create(
      {.vm_fd = vm_fd,
       .any_length = kvm.capability(KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0,
       .max_routes = static_cast<uint32_t>(kvm.capability(KVM_CAP_IRQ_ROUTING))}));
  state->machine = TRY(
      Machine::create({.memory = state->memory.get(),
                       .events = state->events.get(),
                       .serial = config.serial,
                       .vcpus = config.vcpus,
                       .stop = [state = state.get()](StopReason reason) { state->stop(reason); },
                       .ejected =
                           [state = state.get()](unsigned slot) {
                             if (state->config.ejected) state->config.ejected(slot);
                           }}));
  state->vcpus =
      std::make_unique<VcpuGroup>(TRY(create_vcpus(kvm, vm_fd, config.vcpus, *state->machine)));
  state->config = std::move(config);
  return std::unique_ptr<Vm>(new Vm(std::move(state)));
}

Vm::Vm(std::unique_ptr<State> state) : state_(std::move(state)) {}
Vm::~Vm() = default;

Result<unsigned> Vm::add_virtio(std::unique_ptr<VirtioDevice> device, bool removable,
                                std::optional<unsigned> slot) {
  if (state_->state.now() != VmState::kCreated) {
    return failed("a device cannot be added to a VM that has been started");
  }
  return state_->machine->add_virtio(std::move(device), removable, slot);
}

Result<unsigned> Vm::plug(std::unique_ptr<VirtioDevice> device, bool removable) {
  const VmState now = state_->state.now();
  if (now != VmState::kRunning && now != VmState::kPaused) {
    return failed("a device can be plugged only into a VM that runs");
  }
  return state_->machine->plug(std::move(device), removable);
}

Result<> Vm::ask_to_unplug(unsigned slot) { return state_->machine->ask_to_eject(slot); }

Result<> Vm::unplug(unsigned slot) {
  state_->vcpus->pause();
  std::unique_ptr<PciFunction> taken = state_->machine->unplug(slot);
  // A guest that is paused, or has ended, stays so.
  if (state_->state.now() == VmState::kRunning) state_->vcpus->resume();
  if (taken == nullptr) {
    return make_error(ErrorKind::kNotFound, "slot {} has no device that can be removed", slot);
  }
  return {};
}

Result<> Vm::load_kernel(const BootFiles& files, const std::string& command_line) {
  if (state_->state.now() != VmState::kCreated) {
    return failed("a kernel cannot be loaded into a VM that has been started");
  }
  write_firmware_tables(*state_->memory, state_->config);
  state_->cpu_start = TRY(load_guest(*state_->memory, files,
                                     {.command_line = command_line, .rsdp = layout::kAcpiTables}));
  return {};
}

Result<> Vm::start(std::function<void(Stopped)> on_stop) {
  if (!state_->cpu_start) return failed("the VM has no kernel to start");
  TRY(state_->vcpus->first().set_start(*state_->cpu_start));
  if (!state_->state.move_to(VmState::kRunning)) return failed("the VM has been started before");
  return state_->vcpus->start(
      state_->config.vcpu_cpus,
      [state = state_.get(), on_stop = std::move(on_stop)](Stopped stopped) {
        state->state.move_to(VmState::kStopped);
        on_stop(std::move(stopped));
      });
}

void Vm::pause() {
  if (state_->state.move_to(VmState::kPaused)) state_->vcpus->pause();
}

void Vm::resume() {
  if (state_->state.now() != VmState::kPaused) return;
  if (state_->state.move_to(VmState::kRunning)) state_->vcpus->resume();
}

bool Vm::paused() const { return state_->state.now() == VmState::kPaused; }

void Vm::power_button() { state_->machine->press_power_button(); }

const GuestMemory& Vm::memory() const { return *state_->memory; }

}  // namespace plumb
