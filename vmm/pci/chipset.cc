#include "vmm/pci/chipset.h"

#include "vmm/layout.h"

namespace plumb {

HostBridge::HostBridge()
    : PciFunction({.vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000}) {
  constexpr uint32_t kPciExBar = 0x60;
  constexpr uint32_t kPam0 = 0x90;
  set<uint64_t>(kPciExBar, layout::kEcam | 1U);  // enabled, 256 buses
  for (uint32_t pam = kPam0; pam < kPam0 + 7; ++pam) set<uint8_t>(pam, 0x33, 0x33);
}

LpcBridge::LpcBridge()
    : PciFunction({.vendor = 0x8086, .device = 0x2918, .revision = 2, .class_code = 0x060100}) {
  constexpr uint32_t kPmBase = 0x40;
  constexpr uint32_t kAcpiControl = 0x44;
  constexpr uint32_t kPirqA = 0x60;
  constexpr uint32_t kPirqE = 0x68;
  set<uint32_t>(kPmBase, layout::kPmBase | 1U);  // in I/O space
  set<uint8_t>(kAcpiControl, 0x80);              // enabled, SCI on IRQ 9
  for (uint32_t i = 0; i < 4; ++i) {
    set<uint8_t>(kPirqA + i, 0x80, 0x8f);  // not routed
    set<uint8_t>(kPirqE + i, 0x80, 0x8f);
  }
}

}  // namespace plumb
