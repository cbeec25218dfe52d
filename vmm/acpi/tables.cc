#include "vmm/acpi/tables.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "base/check.h"
#include "base/endian.h"
#include "vmm/acpi/pm_block.h"
#include "vmm/layout.h"
#include "vmm/table_bytes.h"

namespace plumb {
namespace {

#include "dsdt.hex"  // dsdt_aml_code, made from dsdt.asl by iasl

// With the common header of all tables but RSDP and FACS (5.2.6); its size and checksum are filled
// in at the end.
class Table : public TableBytes {
 public:
  Table(std::string_view signature, uint8_t revision) {
    text(signature);
    u32(0);  // length
    u8(revision);
    u8(0);  // checksum
    text("PLUMB ");
    text("PLUMBVM ");
    u32(1);
    text("PLMB");
    u32(1);
  }

  // Generic Address Structure (5.2.3.2) of an I/O port.
  void port(uint8_t bits, uint8_t access_size, uint16_t address) {
    u8(1);
    u8(bits);
    u8(0);
    u8(access_size);
    u64(address);
  }

  std::vector<std::byte> finish() {
    store_le<uint32_t>(&(*this)[4], static_cast<uint32_t>(size()));
    checksum(9, size());
    return take();
  }
};

// 5.2.10. Only the waking vector's place and the global lock matter, and nobody uses them.
std::vector<std::byte> build_facs() {
  TableBytes facs;
  facs.text("FACS");
  facs.u32(64);
  facs.zeroes(24);
  facs.u8(2);  // version
  facs.zeroes(64 - 33);
  return facs.take();
}

void add_fadt_addresses(Table& fadt) {
  const uint16_t pm = layout::kPmBase;
  fadt.port(32, 0, pm + kPm1Event);
  fadt.zeroes(12);
  fadt.port(16, 0, pm + kPm1Control);
  fadt.zeroes(12);
  fadt.zeroes(12);  // no PM2 control
  fadt.port(32, 3, pm + kPmTimer);
  fadt.port(8 * kGpe0Size, 0, pm + kGpe0);
  fadt.zeroes(12);
  fadt.zeroes(24);  // no sleep control and status registers: those are for reduced hardware
}

// 5.2.9. SMI_CMD is 0: the machine is always in ACPI mode.
std::vector<std::byte> build_fadt(uint32_t facs, uint32_t dsdt) {
  constexpr uint32_t kWbinvd = 1U << 0U;
  constexpr uint32_t kProcC1 = 1U << 2U;
  constexpr uint32_t kNoFixedSleepButton = 1U << 5U;
  constexpr uint32_t kNoFixedRtcWake = 1U << 6U;
  constexpr uint32_t kTimer32 = 1U << 8U;
  constexpr uint32_t kResetRegister = 1U << 10U;
  // There are devices on LPC and no 8042, no VGA (5.2.9.3).
  constexpr uint16_t kLegacyDevices = 1U << 0U;
  constexpr uint16_t kNoVga = 1U << 2U;
  const uint32_t pm = layout::kPmBase;

  Table fadt("FACP", 6);
  fadt.u32(facs);
  fadt.u32(dsdt);
  fadt.u8(0);
  fadt.u8(4);  // profile: enterprise server
  fadt.u16(layout::kSciIrq);
  fadt.u32(0);     // SMI_CMD
  fadt.zeroes(4);  // ACPI_ENABLE … PSTATE_CNT
  fadt.u32(pm + kPm1Event);
  fadt.u32(0);
  fadt.u32(pm + kPm1Control);
  fadt.u32(0);
  fadt.u32(0);
  fadt.u32(pm + kPmTimer);
  fadt.u32(pm + kGpe0);
  fadt.u32(0);
  fadt.u8(4);  // lengths of the blocks above
  fadt.u8(2);
  fadt.u8(0);
  fadt.u8(4);
  fadt.u8(kGpe0Size);
  fadt.zeroes(3);
  fadt.u16(0xfff);  // no C2
  fadt.u16(0xfff);  // no C3
  fadt.zeroes(2 + 2 + 1 + 1 + 1 + 1);
  fadt.u8(0x32);  // century, in CMOS
  fadt.u16(kLegacyDevices | kNoVga);
  fadt.u8(0);
  fadt.u32(kWbinvd | kProcC1 | kNoFixedSleepButton | kNoFixedRtcWake | kTimer32 | kResetRegister);
  fadt.port(8, 1, layout::kResetPort);
  fadt.u8(layout::kResetValue);
  fadt.u16(0);
  fadt.u8(5);  // minor version
  fadt.u64(facs);
  fadt.u64(dsdt);
  add_fadt_addresses(fadt);
  fadt.u64(0);  // hypervisor vendor
  return fadt.finish();
}

// 5.2.12
std::vector<std::byte> build_madt(uint32_t vcpus) {
  constexpr uint32_t kPcatCompatible = 1;
  Table madt("APIC", 5);
  madt.u32(layout::kLapic);
  madt.u32(kPcatCompatible);
  for (uint32_t id = 0; id < vcpus; ++id) {  // local APICs; ids stay below 255
    madt.u8(0);
    madt.u8(8);
    madt.u8(id);
    madt.u8(id);
    madt.u32(1);
  }
  madt.u8(1);  // I/O APIC
  madt.u8(12);
  madt.u8(0);
  madt.u8(0);
  madt.u32(layout::kIoapic);
  madt.u32(0);
  const auto source_override = [&madt](uint8_t irq, uint32_t gsi, uint16_t flags) {
    madt.u8(2);
    madt.u8(10);
    madt.u8(0);
    madt.u8(irq);
    madt.u32(gsi);
    madt.u16(flags);
  };
  source_override(0, 2, 0);
  source_override(layout::kSciIrq, layout::kSciIrq, 0xd);  // active high, level
  madt.u8(4);                                              // NMI at LINT1 of all local APICs
  madt.u8(6);
  madt.u8(0xff);
  madt.u16(0);
  madt.u8(1);
  return madt.finish();
}

// PCI Firmware Specification 3.3, section 4.1.2.
std::vector<std::byte> build_mcfg() {
  Table mcfg("MCFG", 1);
  mcfg.u64(0);
  mcfg.u64(layout::kEcam);
  mcfg.u16(0);
  mcfg.u8(0);
  mcfg.u8(static_cast<unsigned>(layout::kEcamSize >> 20U) - 1);
  mcfg.u32(0);
  return mcfg.finish();
}

std::vector<std::byte> build_xsdt(std::span<const uint32_t> tables) {
  Table xsdt("XSDT", 1);
  for (const uint32_t table : tables) xsdt.u64(table);
  return xsdt.finish();
}

// 5.2.5.3
std::vector<std::byte> build_rsdp(uint32_t xsdt) {
  constexpr size_t kSize = 36;
  TableBytes rsdp;
  rsdp.text("RSD PTR ");
  rsdp.u8(0);  // checksum of the first 20 bytes
  rsdp.text("PLUMB ");
  rsdp.u8(2);
  rsdp.u32(0);  // no RSDT
  rsdp.u32(kSize);
  rsdp.u64(xsdt);
  rsdp.zeroes(4);
  rsdp.checksum(8, 20);
  rsdp.checksum(32, kSize);
  return rsdp.take();
}

}  // namespace

std::vector<std::byte> build_acpi_tables(const AcpiConfig& config) {
  constexpr size_t kAlignment = 64;  // FACS must be, the others may
  ENSURE(config.address % kAlignment == 0);
  std::vector<std::byte> image(kAlignment);  // the RSDP's place
  const auto place = [&](std::span<const std::byte> table) {
    const size_t at = image.size();
    image.insert(image.end(), table.begin(), table.end());
    image.resize((image.size() + kAlignment - 1) & ~(kAlignment - 1));
    return config.address + static_cast<uint32_t>(at);
  };
  const uint32_t dsdt = place(std::as_bytes(std::span(dsdt_aml_code)));
  const uint32_t facs = place(build_facs());
  const uint32_t tables[] = {place(build_fadt(facs, dsdt)), place(build_madt(config.vcpus)),
                             place(build_mcfg())};
  const std::vector<std::byte> rsdp = build_rsdp(place(build_xsdt(tables)));
  std::copy(rsdp.begin(), rsdp.end(), image.begin());
  return image;
}

}  // namespace plumb
