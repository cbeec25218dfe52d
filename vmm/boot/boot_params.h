// The two forms in which a kernel is told of its machine: Linux's zero page and PVH's start info.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/guest_memory.h"

namespace plumb {

struct BootModule {
  GuestAddress start = 0;
  uint64_t size = 0;  // 0: there is none
};

struct BootInfo {
  uint64_t memory_bytes = 0;
  BootModule initrd;
  GuestAddress command_line = 0;
  GuestAddress rsdp = 0;
};

// Linux Documentation/arch/x86/{boot,zero-page}.rst. One page at `at`.
void write_zero_page(const GuestMemory& memory, GuestAddress at,
                     std::span<const std::byte> setup_header, const BootInfo& info);

// Xen public/arch-x86/hvm/start_info.h, version 1. At most a page at `at`.
void write_pvh_start_info(const GuestMemory& memory, GuestAddress at, const BootInfo& info);

}  // namespace plumb
