// The two functions by which software knows the machine as a Q35: host bridge and ICH9 LPC bridge.
// Sources: Intel Q35 Express Chipset data sheet, section 5; Intel ICH9 data sheet, section 13.1.
#pragma once

#include "vmm/pci/function.h"

namespace plumb {

inline constexpr unsigned kLpcSlot = 31;

// 00:00.0. PCIEXBAR says where ECAM is, and cannot be moved. The PAM registers keep what firmware
// writes: all of the memory they would switch is RAM anyway.
class HostBridge : public PciFunction {
 public:
  HostBridge();
};

// 00:1f.0. PMBASE says where the ACPI registers are, and cannot be moved.
class LpcBridge : public PciFunction {
 public:
  LpcBridge();
};

}  // namespace plumb
