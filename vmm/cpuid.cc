#include "vmm/cpuid.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/endian.h"

namespace plumb {
namespace {

constexpr uint32_t kMaxEntries = 256;

uint32_t with_bits(uint32_t value, unsigned low, unsigned high, uint32_t field) {
  const uint32_t mask = ((high - low == 31) ? ~0U : ((1U << (high - low + 1)) - 1)) << low;
  return (value & ~mask) | ((field << low) & mask);
}

uint32_t with_bit(uint32_t value, unsigned bit, bool set) {
  return with_bits(value, bit, bit, set ? 1 : 0);
}

// Bits of an APIC id that number the cores of the socket.
uint32_t core_bits(const CpuidPlace& place) {
  return static_cast<uint32_t>(std::bit_width(place.vcpus - 1));
}

void fit_features(kvm_cpuid_entry2& entry, const CpuidPlace& place) {
  entry.ebx = with_bits(entry.ebx, 24, 31, place.apic_id);
  entry.ebx = with_bits(entry.ebx, 16, 23, 1U << core_bits(place));
  entry.ecx = with_bit(entry.ecx, 21, true);  // x2APIC: KVM always emulates it
  entry.ecx = with_bit(entry.ecx, 24, place.tsc_deadline);
  entry.ecx = with_bit(entry.ecx, 31, true);  // a hypervisor is present
  entry.edx = with_bit(entry.edx, 28, place.vcpus > 1);
}

// Leaf 4 (Intel) and 0x8000001d (AMD) have the same layout of EAX. Level 1 and 2 caches are each
// core's own, level 3 is the socket's.
void fit_cache(kvm_cpuid_entry2& entry, const CpuidPlace& place, bool intel) {
  if ((entry.eax & 0x1fU) == 0) return;
  const uint32_t level = (entry.eax >> 5U) & 7U;
  const uint32_t all = (1U << core_bits(place)) - 1;
  entry.eax = with_bits(entry.eax, 14, 25, level >= 3 ? all : 0);
  if (intel) entry.eax = with_bits(entry.eax, 26, 31, std::min(all, 63U));
}

// Leaves 0xb and 0x1f: one thread a core, all cores in the socket.
void fit_topology(kvm_cpuid_entry2& entry, const CpuidPlace& place) {
  entry.edx = place.apic_id;
  entry.ecx = entry.index;
  entry.eax = entry.ebx = 0;
  if (entry.index == 0) {
    entry.ebx = 1;
    entry.ecx |= 1U << 8U;  // level type: SMT
  } else if (entry.index == 1) {
    entry.eax = core_bits(place);
    entry.ebx = place.vcpus;
    entry.ecx |= 2U << 8U;  // level type: core
  }
}

// KVM lists these leaves with the host's levels, some hosts none: replaced as a whole.
void replace_topology(std::vector<kvm_cpuid_entry2>& entries, uint32_t function) {
  std::erase_if(entries, [&](const auto& entry) { return entry.function == function; });
  for (uint32_t index = 0; index < 3; ++index) {
    kvm_cpuid_entry2 entry{};
    entry.function = function;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entries.push_back(entry);
  }
}

uint32_t highest_basic_leaf(const std::vector<kvm_cpuid_entry2>& entries) {
  for (const auto& entry : entries) {
    if (entry.function == 0) return entry.eax;
  }
  return 0;
}

void fit_amd_sizes(kvm_cpuid_entry2& entry, const CpuidPlace& place) {
  entry.ecx = with_bits(entry.ecx, 0, 7, place.vcpus - 1);
  entry.ecx = with_bits(entry.ecx, 12, 15, core_bits(place));
}

void fit_amd_ids(kvm_cpuid_entry2& entry, const CpuidPlace& place) {
  entry.eax = place.apic_id;
  entry.ebx = place.apic_id & 0xffU;  // core id; one thread a core
  entry.ecx = 0;                      // one node
}

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const Kvm& kvm) {
  std::vector<kvm_cpuid_entry2> entries(kMaxEntries);
  std::vector<std::byte> table = kvm_array<kvm_cpuid_entry2>(entries);
  if (kvm_ioctl(kvm.fd(), kKvmGetSupportedCpuid, table.data()) != 0) {
    return os_error(errno, "KVM does not say which CPU features it supports");
  }
  entries.resize(std::min(load_le<uint32_t>(table.data()), kMaxEntries));
  std::memcpy(entries.data(), table.data() + sizeof(KvmArrayHead),
              entries.size() * sizeof(kvm_cpuid_entry2));
  if (highest_basic_leaf(entries) >= 0xb) replace_topology(entries, 0xb);
  if (highest_basic_leaf(entries) >= 0x1f) replace_topology(entries, 0x1f);
  return entries;
}

void fit_cpuid(std::vector<kvm_cpuid_entry2>& entries, const CpuidPlace& place) {
  for (kvm_cpuid_entry2& entry : entries) {
    switch (entry.function) {
      case 1:
        fit_features(entry, place);
        break;
      case 4:
        fit_cache(entry, place, true);
        break;
      case 0xb:
      case 0x1f:
        fit_topology(entry, place);
        break;
      case 0x80000001:
        entry.ecx = with_bit(entry.ecx, 1, place.vcpus > 1 && (entry.ecx & 2U) != 0);
        break;
      case 0x80000008:
        fit_amd_sizes(entry, place);
        break;
      case 0x8000001d:
        fit_cache(entry, place, false);
        break;
      case 0x8000001e:
        fit_amd_ids(entry, place);
        break;
      default:
        break;
    }
  }
}

}  // namespace plumb
