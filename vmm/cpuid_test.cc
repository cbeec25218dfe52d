#include "vmm/cpuid.h"

#include <catch2/catch.hpp>

using namespace plumb;

namespace {

kvm_cpuid_entry2 leaf(uint32_t function, uint32_t index = 0) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  return entry;
}

kvm_cpuid_entry2 fitted(kvm_cpuid_entry2 entry, const CpuidPlace& place) {
  std::vector<kvm_cpuid_entry2> entries{entry};
  fit_cpuid(entries, place);
  return entries[0];
}

}  // namespace

TEST_CASE("leaf 1 has the APIC id, the hypervisor, x2APIC, and what KVM can") {
  const auto one = fitted(leaf(1), {.apic_id = 5, .vcpus = 6, .tsc_deadline = true});
  CHECK(one.ebx >> 24U == 5);
  CHECK(((one.ebx >> 16U) & 0xffU) == 8);
  CHECK((one.ecx & (1U << 31U)) != 0);
  CHECK((one.ecx & (1U << 24U)) != 0);
  CHECK((one.ecx & (1U << 21U)) != 0);
  CHECK((one.edx & (1U << 28U)) != 0);
  const auto alone = fitted(leaf(1), {});
  CHECK((alone.ecx & (1U << 24U)) == 0);
  CHECK((alone.edx & (1U << 28U)) == 0);
}

TEST_CASE("the topology leaves put all vCPUs as cores into one socket") {
  for (const uint32_t vcpus : {1U, 2U, 3U, 64U}) {
    const CpuidPlace place{.apic_id = vcpus - 1, .vcpus = vcpus};
    const auto smt = fitted(leaf(0xb, 0), place);
    CHECK(smt.eax == 0);
    CHECK(smt.ebx == 1);
    CHECK(smt.ecx == 0x100);
    CHECK(smt.edx == vcpus - 1);
    const auto core = fitted(leaf(0x1f, 1), place);
    CHECK((1U << core.eax) >= vcpus);
    CHECK((core.eax == 0 || (1U << (core.eax - 1)) < vcpus));
    CHECK(core.ebx == vcpus);
    CHECK(core.ecx == 0x201);
    const auto end = fitted(leaf(0xb, 2), place);
    CHECK(end.ebx == 0);
    CHECK(end.ecx == 2);
  }
}

TEST_CASE("caches of level 3 are shared, those below are not") {
  auto first = leaf(4);
  first.eax = 1U | 1U << 5U | 0xfffU << 14U;
  CHECK(((fitted(first, {.vcpus = 4}).eax >> 14U) & 0xfffU) == 0);
  auto third = leaf(4, 3);
  third.eax = 3U | 3U << 5U;
  CHECK(((fitted(third, {.vcpus = 4}).eax >> 14U) & 0xfffU) == 3);
  CHECK(fitted(third, {.vcpus = 4}).eax >> 26U == 3);
  CHECK(fitted(leaf(4, 4), {.vcpus = 4}).eax == 0);  // the end of the list stays that
}

TEST_CASE("AMD's leaves count cores and name them") {
  const CpuidPlace place{.apic_id = 2, .vcpus = 3};
  const auto sizes = fitted(leaf(0x80000008), place);
  CHECK((sizes.ecx & 0xffU) == 2);
  CHECK(((sizes.ecx >> 12U) & 0xfU) == 2);
  CHECK(fitted(leaf(0x8000001e), place).eax == 2);
}

TEST_CASE("fitting one vCPU's leaves for the next leaves nothing of the first") {
  std::vector<kvm_cpuid_entry2> entries{leaf(1), leaf(0xb, 1), leaf(0x8000001e)};
  fit_cpuid(entries, {.apic_id = 3, .vcpus = 4});
  fit_cpuid(entries, {.apic_id = 0, .vcpus = 4});
  CHECK(entries[0].ebx >> 24U == 0);
  CHECK(entries[1].edx == 0);
  CHECK(entries[2].eax == 0);
}

TEST_CASE("leaves that do not depend on the vCPU stay as KVM gave them") {
  auto seven = leaf(7);
  seven.ebx = 0x12345678;
  CHECK(fitted(seven, {.vcpus = 8}).ebx == 0x12345678);
}
