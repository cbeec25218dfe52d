// CPUID of a guest: what KVM supports, made to fit one vCPU of a one-socket machine.
// Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
#pragma once

#include <linux/kvm.h>

#include <vector>

#include "base/result.h"
#include "vmm/kvm.h"

namespace plumb {

struct CpuidPlace {
  uint32_t apic_id = 0;  // also the vCPU's number
  uint32_t vcpus = 1;    // of the machine: one core each, one socket
  bool tsc_deadline = false;
};

// What KVM can give guests on this host.
Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const Kvm& kvm);

// Fills in what differs between vCPUs. Pure; `entries` may already be those of another vCPU of
// the same machine.
void fit_cpuid(std::vector<kvm_cpuid_entry2>& entries, const CpuidPlace& place);

}  // namespace plumb
