// The guest's physical address map and its I/O ports, in one place. RAM is in guest_memory.h.
#pragma once

#include <cstdint>

namespace plumb::layout {

// --- Below 1 MiB: what the boot code leaves for the kernel. All of it is RAM the kernel may
// reuse, except from kLowRamEnd on, which the memory map keeps from it. ---
inline constexpr uint64_t kGdt = 0x500;
inline constexpr uint64_t kPvhStartInfo = 0x6000;
inline constexpr uint64_t kZeroPage = 0x7000;
inline constexpr uint64_t kPageTables = 0x9000;  // six pages
inline constexpr uint64_t kCommandLine = 0x20000;
inline constexpr uint64_t kLowRamEnd = 0x9fc00;
// The RSDP must be on a 16-byte boundary in 0xe0000-0xfffff (ACPI 6.5, section 5.2.5.1); the
// tables follow it.
inline constexpr uint64_t kAcpiTables = 0xe0000;
// The page of the generation ID, alone in it: it may be mapped with caching only, and the kernel
// looks for SMBIOS in the next 64 KiB without. dsdt.asl has the address too.
inline constexpr uint64_t kGenerationId = 0xef000;
// The SMBIOS entry point must be on a 16-byte boundary in 0xf0000-0xfffff (SMBIOS 3.0, section
// 5.2.2); the table follows it.
inline constexpr uint64_t kSmbios = 0xf0000;
inline constexpr uint64_t kHighRamStart = 0x100000;

// --- The hole below 4 GiB ---
inline constexpr uint64_t kPciWindow = 0xc0000000;
inline constexpr uint64_t kPciWindowEnd = 0xe0000000;
inline constexpr uint64_t kEcam = 0xe0000000;  // PCI Express configuration space, 256 buses
inline constexpr uint64_t kEcamSize = 256ULL << 20U;
inline constexpr uint64_t kIoapic = 0xfec00000;
inline constexpr uint64_t kLapic = 0xfee00000;
// Four pages that KVM needs on Intel hosts for guests in real mode; the guest never sees them.
inline constexpr uint64_t kIdentityMap = 0xfeffc000;
inline constexpr uint64_t kTss = 0xfeffd000;

// --- Ports ---
inline constexpr uint16_t kRtcPort = 0x70;
inline constexpr uint16_t kKeyboardPort = 0x64;
inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kPmBase = 0x600;
inline constexpr uint16_t kPmSize = 0x80;
inline constexpr uint16_t kPciHotplugPort = 0x680;
inline constexpr uint16_t kPciConfigPort = 0xcf8;
inline constexpr uint16_t kResetPort = 0xcf9;
inline constexpr uint8_t kResetValue = 6;

// --- Interrupts: GSIs below 24 are the IOAPIC's pins ---
inline constexpr uint32_t kSerialIrq = 4;
inline constexpr uint32_t kSciIrq = 9;
inline constexpr uint32_t kFirstMsiGsi = 24;

}  // namespace plumb::layout
