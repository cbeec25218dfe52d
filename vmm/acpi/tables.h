// The ACPI tables of a VM. Source: ACPI 6.5, chapter 5. Pure: bytes in, bytes out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace plumb {

struct AcpiConfig {
  uint32_t vcpus = 1;
  // Where the bytes will be in the guest: 0xe0000-0xfffff, on a 64-byte boundary.
  uint32_t address = 0;
};

// RSDP (first), XSDT, FADT, FACS, MADT, MCFG and DSDT.
std::vector<std::byte> build_acpi_tables(const AcpiConfig& config);

}  // namespace plumb
