// Vm: one guest on KVM: memory, vCPUs, the Q35-compatible machine, and the devices given to it.
//
// Order of use: create → add_virtio … → load_kernel → start → (pause, resume, power_button) … →
// on_stop is called → destroy. Destroying a running Vm ends the vCPUs first. A reboot is a new Vm
// over the same disks. All methods are for one thread, the control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
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
    uint64_t memory_bytes = 0;
    bool huge_pages = false;
    unsigned vcpus = 1;                       // 1 to kMaxVcpus
    std::vector<std::vector<int>> vcpu_cpus;  // per vCPU, where it may run; empty: anywhere
    CharBackend* serial = nullptr;            // of the 16550; nullptr: output is dropped
  };
  using Stopped = plumb::Stopped;

  // Errors: KVM lacks what is needed, memory that does not fit.
  static Result<std::unique_ptr<Vm>> create(const Kvm& kvm, Config config);
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // Puts `device` behind a virtio-pci function in the next free slot of bus 0. Before start().
  Result<> add_virtio(std::unique_ptr<VirtioDevice> device);

  // Loads kernel (bzImage, or ELF with a PVH note), initrd and command line, and writes the ACPI
  // tables and boot information.
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
