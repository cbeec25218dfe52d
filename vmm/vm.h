// Vm: one guest on KVM: memory, vCPUs, the Q35-compatible machine, and the devices given to it.
//
// Order of use: create → add_virtio … → load_kernel → start → (pause, resume, power_button, plug,
// unplug) … → on_stop is called → destroy. Destroying a running Vm ends the vCPUs first. A reboot
// is a new Vm over the same disks. All methods are for one thread, the control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/uuid.h"
#include "vmm/char_backend.h"
#include "vmm/guest_memory.h"
#include "vmm/stop_reason.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

struct BootFiles;
class Kvm;

inline constexpr unsigned kMaxVcpus = 64;

class Vm {
 public:
  struct Config {
    std::string name;
    Uuid uuid;           // SMBIOS tells it
    Uuid generation_id;  // of the vmgenid device
    uint64_t memory_bytes = 0;
    bool huge_pages = false;
    unsigned vcpus = 1;                       // 1 to kMaxVcpus
    std::vector<std::vector<int>> vcpu_cpus;  // per vCPU, where it may run; empty: anywhere
    CharBackend* serial = nullptr;            // of the 16550; nullptr: output is dropped
    // The guest has let go of the device in a slot; it answers no more, and waits for unplug(). On
    // a vCPU thread.
    std::function<void(unsigned slot)> ejected;
  };
  using Stopped = plumb::Stopped;

  // Errors: KVM lacks what is needed, memory that does not fit.
  static Result<std::unique_ptr<Vm>> create(const Kvm& kvm, Config config);
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // Puts `device` behind a virtio-pci function in `slot` of bus 0, which is free, or in the lowest
  // free one; returns which. Before start(). What is not `removable` stays for the VM's life.
  Result<unsigned> add_virtio(std::unique_ptr<VirtioDevice> device, bool removable = false,
                              std::optional<unsigned> slot = {});

  // The same from start() on, in the lowest free slot, and the guest is told. Errors: no slot is
  // free, the guest's run has ended.
  Result<unsigned> plug(std::unique_ptr<VirtioDevice> device, bool removable = true);
  // Asks the guest to let go of a removable device. It may do so at any time later, or never.
  Result<> ask_to_unplug(unsigned slot);
  // Takes the removable device of a slot away, whether the guest let go of it or not, and destroys
  // it, which waits for its requests. The vCPUs leave the guest meanwhile. Error kNotFound when
  // there is none.
  Result<> unplug(unsigned slot);

  // Loads kernel (bzImage, or ELF with a PVH note), initrd and command line, and writes the ACPI
  // and SMBIOS tables, the generation ID and boot information.
  Result<> load_kernel(const BootFiles& files, const std::string& command_line);

  // Runs the vCPUs. `on_stop` is called once, on any thread, when the guest's run ends.
  Result<> start(std::function<void(Stopped)> on_stop);

  // All vCPUs out of the guest, or back in. Idempotent. pause() returns when they are out.
  void pause();
  void resume();
  bool paused() const;

  // Presses the ACPI power button.
  void power_button();

  const GuestMemory& memory() const;

 private:
  struct State;
  explicit Vm(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace plumb
