// The GDT and page tables with which the first vCPU starts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/guest_memory.h"

namespace plumb {

// __BOOT_CS and __BOOT_DS of the Linux x86 boot protocol.
inline constexpr uint16_t kCodeSelector = 0x10;
inline constexpr uint16_t kDataSelector = 0x18;
inline constexpr uint16_t kGdtSize = 4 * 8;

// Flat segments: code for 64-bit mode or for 32-bit mode, and data.
void write_gdt(const GuestMemory& memory, GuestAddress at, bool long_mode);
// Six pages: the first 4 GiB at their own addresses, in 2 MiB pages.
void write_identity_page_tables(const GuestMemory& memory, GuestAddress at);

}  // namespace plumb
