#include "vmm/guest_memory.h"

#include <catch2/catch.hpp>

#include "base/size.h"

using namespace plumb;
using Catch::Matchers::Contains;

TEST_CASE("small guests have one region, large ones continue behind the hole") {
  const auto small = GuestMemory::create({.size_bytes = 4 * kMiB}).value();
  REQUIRE(small->regions().size() == 1);
  CHECK(small->regions()[0].size_bytes == 4 * kMiB);
  // Address space only: nothing is touched.
  Result<std::unique_ptr<GuestMemory>> large = GuestMemory::create({.size_bytes = 4 * kGiB});
  if (!large) return;  // a host with less memory than that
  REQUIRE((*large)->regions().size() == 2);
  CHECK((*large)->regions()[0].size_bytes == GuestMemory::kHoleStart);
  CHECK((*large)->regions()[1].start == GuestMemory::kHoleEnd);
  CHECK((*large)->regions()[1].file_offset == GuestMemory::kHoleStart);
  CHECK((*large)->at(GuestMemory::kHoleStart - 1, 1) != nullptr);
  CHECK((*large)->at(GuestMemory::kHoleStart - 1, 2) == nullptr);
  CHECK((*large)->at(GuestMemory::kHoleEnd - 1, 1) == nullptr);
  CHECK((*large)->at(GuestMemory::kHoleEnd, kGiB) != nullptr);
  CHECK((*large)->at(GuestMemory::kHoleEnd, kGiB + 1) == nullptr);
}

TEST_CASE("addresses outside RAM, empty and overflowing ranges have no pointer") {
  const auto memory = GuestMemory::create({.size_bytes = 4 * kMiB}).value();
  CHECK(memory->at(0, 4 * kMiB) == memory->regions()[0].host);
  CHECK(memory->at(4 * kMiB - 1, 1) != nullptr);
  CHECK(memory->at(0, 0) == nullptr);
  CHECK(memory->at(0, 4 * kMiB + 1) == nullptr);
  CHECK(memory->at(4 * kMiB, 1) == nullptr);
  CHECK(memory->at(4 * kMiB - 1, 2) == nullptr);
  CHECK(memory->at(1, ~0ULL) == nullptr);
  CHECK(memory->at(~0ULL, 2) == nullptr);
  CHECK(memory->at(~0ULL, ~0ULL) == nullptr);
}

TEST_CASE("values are copied in and out, and a failed access changes nothing") {
  const auto memory = GuestMemory::create({.size_bytes = 2 * kMiB}).value();
  CHECK(memory->write<uint32_t>(0x1001, 0xdeadbeef));
  uint32_t value = 0;
  CHECK(memory->read(0x1001, value));
  CHECK(value == 0xdeadbeef);
  CHECK_FALSE(memory->read(2 * kMiB - 2, value));
  CHECK(value == 0xdeadbeef);
  CHECK_FALSE(memory->write<uint64_t>(2 * kMiB - 7, 1));
}

TEST_CASE("sizes that cannot be are refused") {
  CHECK_THAT(GuestMemory::create({.size_bytes = 0}).error().message, Contains("multiple of 2 MiB"));
  CHECK_THAT(GuestMemory::create({.size_bytes = 3 * kMiB}).error().message,
             Contains("multiple of 2 MiB"));
}

TEST_CASE("memory that does not fit is refused before anything runs, with both numbers") {
  Result<std::unique_ptr<GuestMemory>> memory = GuestMemory::create({.size_bytes = 1ULL << 50U});
  REQUIRE_FALSE(memory);
  CHECK_THAT(memory.error().message, Contains("does not fit") && Contains("available"));
  Result<std::unique_ptr<GuestMemory>> huge =
      GuestMemory::create({.size_bytes = 1ULL << 50U, .huge_pages = true});
  REQUIRE_FALSE(huge);
  CHECK_THAT(huge.error().message, Contains("huge pages"));
}
