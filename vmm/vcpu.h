// Vcpu: one virtual CPU: its registers at the start, and what happens when it leaves the guest.
#pragma once

#include <linux/kvm.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/bus.h"
#include "vmm/stop_reason.h"

namespace plumb {

// Where and how the first vCPU starts.
struct CpuStart {
  enum class Mode : uint8_t {
    kLong64,       // Linux x86 boot protocol, "64-bit BOOT PROTOCOL": RSI is the argument
    kProtected32,  // PVH (Xen docs/misc/pvh.pandoc): paging off, EBX is the argument
  };
  Mode mode = Mode::kLong64;
  uint64_t instruction = 0;
  uint64_t argument = 0;
  uint64_t page_tables = 0;  // kLong64
  uint64_t gdt = 0;          // as boot/cpu_tables.h writes it
};

class Vcpu {
 public:
  struct Config {
    int vm_fd = -1;
    uint32_t id = 0;
    size_t run_area_size = 0;
    const Bus* ports = nullptr;
    const Bus* mmio = nullptr;
  };
  static Result<std::unique_ptr<Vcpu>> create(const Config& config);
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  uint32_t id() const { return config_.id; }
  Result<> set_cpuid(const std::vector<kvm_cpuid_entry2>& entries);
  // MSRs and local APIC as firmware would leave them, and the registers of `start`. For the first
  // vCPU; the others wait for the guest's start-up IPI.
  Result<> set_start(const CpuStart& start);

  // Runs the guest and serves its exits until kicked (then nothing is returned) or until it
  // cannot go on. Only on the vCPU's thread.
  std::optional<Stopped> run();

  // Makes run() return soon; it stays so until clear_kick(). The caller also sends the thread a
  // signal, for when it is in the guest. Any thread.
  void kick();
  void clear_kick();
  // Tells the guest that it was not running for a while, so that its watchdogs stay quiet.
  void tell_paused();

 private:
  explicit Vcpu(const Config& config) : config_(config) {}
  Result<> set_msrs();
  Result<> set_local_apic();
  std::optional<Stopped> handle_exit();
  std::optional<Stopped> handle_system_event();
  void handle_port();
  void handle_mmio();
  Stopped crash(std::string what);

  const Config config_;
  UniqueFd fd_;
  kvm_run* run_ = nullptr;
};

}  // namespace plumb
