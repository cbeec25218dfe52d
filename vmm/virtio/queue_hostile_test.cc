// What a driver must not do to a ring, each case named after the bug, here or elsewhere, that it
// would have been. Whatever comes, pop() gives an error and nothing else happens.
#include <catch2/catch.hpp>
#include <thread>

#include "tests/fakes/queue_fixture.h"

namespace plumb {
namespace {

using Fixture = QueueFixture;
constexpr uint64_t kAll = kQueueFeatures;
constexpr uint16_t kSegments = kQueueSegments;
constexpr uint64_t kRam = kQueueRam;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string create_error(const VirtioQueueSetup& setup, const FakeGuest& guest) {
  auto created = Virtqueue::create(setup, kAll, guest.memory(), kSegments);
  return created.ok() ? "" : created.error().message;
}

}  // namespace

TEST_CASE(
    "CVE-2026-50626: a queue that is larger than offered, no power of two or outside RAM is "
    "refused") {
  FakeGuest guest;
  FakeQueue driver(guest, 16);
  const VirtioQueueSetup good = driver.setup();
  CHECK(create_error(good, guest).empty());
  for (const unsigned size : {0U, 3U, 15U, 2048U, 32768U, 65535U}) {
    VirtioQueueSetup bad = good;
    bad.size = static_cast<uint16_t>(size);
    CHECK(has(create_error(bad, guest), "not a power of two up to 1024"));
  }
  for (GuestAddress VirtioQueueSetup::*ring :
       {&VirtioQueueSetup::descriptors, &VirtioQueueSetup::driver_ring,
        &VirtioQueueSetup::device_ring}) {
    VirtioQueueSetup bad = good;
    bad.*ring += 1;
    CHECK(has(create_error(bad, guest), "not aligned"));
    for (const GuestAddress outside : {kRam - 16, kRam, uint64_t{1} << 32U, ~uint64_t{15}}) {
      bad = good;
      bad.*ring = outside;
      CHECK(has(create_error(bad, guest), "outside RAM"));
    }
  }
}

TEST_CASE("Firecracker #1296: rings that end exactly at the top of RAM work") {
  FakeGuest guest(kRam);
  VirtioQueueSetup setup{.enabled = true, .size = 16};
  setup.descriptors = kRam - 256;
  setup.driver_ring = kRam - 256 - 38;
  setup.device_ring = kRam - 512;
  CHECK(create_error(setup, guest).empty());
  setup.device_ring = kRam - 134 - 2;  // 134 bytes, 4-aligned
  CHECK(create_error(setup, guest).empty());
}

TEST_CASE("OpenVMM #4045: ring entries, indices and next descriptors out of bounds are refused") {
  {
    Fixture fixture;
    fixture.driver.add_available_entry(16);
    fixture.driver.publish();
    CHECK(has(fixture.pop_error(), "beyond the queue"));
  }
  {
    Fixture fixture;
    fixture.driver.set_available_index(17);
    CHECK(has(fixture.pop_error(), "ahead by 17 of 16"));
  }
  {
    Fixture fixture;
    fixture.raw({{.address = 4096, .length = 8, .flags = kFakeDescNext, .next = 16}});
    CHECK(has(fixture.pop_error(), "beyond its table"));
  }
}

TEST_CASE("HexHive virtio-blk-01, CVE-2026-16457: chain loops end") {
  {
    Fixture fixture;
    fixture.raw({{.address = 4096, .length = 8, .flags = kFakeDescNext, .next = 0}});
    CHECK(!fixture.pop_error().empty());
  }
  {
    // Of empty buffers, which take no room.
    Fixture fixture;
    fixture.raw({{.address = 0, .length = 0, .flags = kFakeDescNext, .next = 1},
                 {.address = 0, .length = 0, .flags = kFakeDescNext, .next = 0}});
    CHECK(has(fixture.pop_error(), "too long, or a loop"));
  }
  {
    Fixture fixture;
    const FakeDescriptor self{.address = 0, .length = 0, .flags = kFakeDescNext, .next = 0};
    const GuestBuffer table = fixture.guest.place(self);
    fixture.raw({{.address = table.address, .length = 16, .flags = kFakeDescIndirect}});
    CHECK(has(fixture.pop_error(), "too long, or a loop"));
  }
}

TEST_CASE("CVE-2026-16457: an indirect table of a million entries costs no more than a short one") {
  // Empty buffers, linked for as long as a table of 16 bits can link them.
  FakeGuest guest(32U << 20U);
  FakeQueue driver(guest, 16);
  const GuestBuffer table = guest.allocate(16U << 20U, 4096);
  for (uint32_t i = 0; i < 65536; ++i) {
    const FakeDescriptor empty{
        .address = 0, .length = 0, .flags = kFakeDescNext, .next = static_cast<uint16_t>(i + 1)};
    std::memcpy(table.host + i * sizeof(empty), &empty, sizeof(empty));
  }
  const auto queue = Virtqueue::create(driver.setup(), kAll, guest.memory(), kSegments).value();
  const uint16_t head = driver.allocate_descriptor();
  driver.descriptor(head) = {
      .address = table.address, .length = table.length, .flags = kFakeDescIndirect};
  driver.add_available_entry(head);
  driver.publish();
  Result<std::optional<VirtqueueChain>> popped = queue->pop();
  REQUIRE(!popped.ok());
  CHECK(has(popped.error().message, "too long, or a loop"));
}

TEST_CASE("CVE-2016-5403: never more chains in flight than the queue has entries") {
  Fixture fixture(kAll, 4);
  const GuestBuffer buffer = fixture.guest.allocate(8);
  std::vector<VirtqueueChain> chains;
  for (int i = 0; i < 4; ++i) fixture.driver.chain().readable(buffer).send();
  for (int i = 0; i < 4; ++i) chains.push_back(std::move(*fixture.pop()));
  for (uint16_t head = 0; head < 4; ++head) {
    fixture.driver.set_available_index(static_cast<uint16_t>(5 + head));
    CHECK(!fixture.pop_error().empty());
  }
  for (VirtqueueChain& chain : chains) fixture.queue->push(std::move(chain), 0);
  fixture.queue->publish();
  CHECK(fixture.driver.used_index() == 4);
}

TEST_CASE("Firecracker #3149: the available index moved back, or a head given twice, is refused") {
  Fixture fixture;
  const GuestBuffer buffer = fixture.guest.allocate(8);
  const uint16_t head = fixture.driver.chain().readable(buffer).send();
  auto chain = fixture.pop();
  fixture.driver.add_available_entry(head);
  fixture.driver.publish();
  CHECK(has(fixture.pop_error(), "in flight already"));
  fixture.driver.set_available_index(0);
  CHECK(has(fixture.pop_error(), "ahead by"));
  fixture.queue->push(std::move(*chain), 0);
}

TEST_CASE(
    "Firecracker #1296: a buffer that ends exactly at the top of RAM works, one byte more not") {
  Fixture fixture;
  fixture.raw({{.address = kRam - 512, .length = 512}});
  auto chain = fixture.pop();
  REQUIRE(chain.has_value());
  CHECK(chain->readable()[0].iov_len == 512);
  fixture.queue->push(std::move(*chain), 0);
  fixture.raw({{.address = kRam - 511, .length = 512}});
  CHECK(has(fixture.pop_error(), "outside RAM"));
}

TEST_CASE("CVE-2016-7422, OpenVMM #4047: huge lengths and sums that wrap are refused") {
  const FakeDescriptor bad[] = {
      {.address = ~uint64_t{0}, .length = 1},
      {.address = ~uint64_t{0} - 10, .length = 0xffffffff},
      {.address = 4096, .length = 0xffffffff},
      {.address = kRam, .length = 1},
      {.address = uint64_t{3} << 30U, .length = 4096},
  };
  for (const FakeDescriptor& descriptor : bad) {
    for (const uint16_t flags : {uint16_t{0}, kFakeDescWrite}) {
      Fixture fixture;
      FakeDescriptor with_flags = descriptor;
      with_flags.flags = flags;
      fixture.raw({with_flags});
      CHECK(has(fixture.pop_error(), "outside RAM"));
    }
  }
}

TEST_CASE("CVE-2019-18960: what starts in RAM and ends in the hole for devices is refused") {
  constexpr uint64_t kHigh = 2U << 20U;
  auto memory = GuestMemory::create({.size_bytes = GuestMemory::kHoleStart + kHigh});
  if (!memory.ok()) {
    WARN("SKIPPED: " << memory.error().message);
    return;
  }
  FakeGuest guest(std::move(*memory));
  FakeQueue driver(guest, 16);
  const auto queue = Virtqueue::create(driver.setup(), kAll, guest.memory(), kSegments).value();
  const uint16_t head = driver.allocate_descriptor();
  const auto fits = [&](uint64_t address, uint32_t length) {
    driver.descriptor(head) = {.address = address, .length = length};
    Result<std::optional<VirtqueueChain>> popped = queue->pop();
    if (!popped.ok()) return false;
    queue->push(std::move(**popped), 0);
    driver.add_available_entry(head);
    driver.publish();
    return true;
  };
  driver.add_available_entry(head);
  driver.publish();
  const uint64_t hole = GuestMemory::kHoleStart;
  const uint64_t end = GuestMemory::kHoleEnd;
  CHECK(fits(hole - 512, 512));
  CHECK_FALSE(fits(hole - 512, 513));
  CHECK_FALSE(fits(hole - 1, 0xffffffff));  // from RAM to RAM, over the hole
  CHECK_FALSE(fits(hole, 1));
  CHECK_FALSE(fits(end - 1, 2));
  CHECK(fits(end, 512));
  CHECK(fits(end + kHigh - 512, 512));
  CHECK_FALSE(fits(end + kHigh - 512, 513));
}

TEST_CASE("CVE-2021-29631: a chain whose second descriptor is bad gives nothing at all") {
  Fixture fixture;
  fixture.raw({{.address = 4096, .length = 8, .flags = kFakeDescNext, .next = 1},
               {.address = kRam, .length = 8}});
  CHECK(has(fixture.pop_error(), "outside RAM"));
}

TEST_CASE("CH #8401: a chain that is refused takes neither a slot nor a head with it") {
  Fixture fixture(kAll, 4);
  const GuestBuffer buffer = fixture.guest.allocate(8);
  for (int i = 0; i < 3; ++i) fixture.driver.chain().readable(buffer).send();
  const uint16_t broken = fixture.driver.chain().readable(buffer).send();
  fixture.driver.descriptor(broken).address = kRam;
  std::vector<VirtqueueChain> chains;
  for (int i = 0; i < 3; ++i) chains.push_back(std::move(*fixture.pop()));
  for (int i = 0; i < 1000; ++i) CHECK(has(fixture.pop_error(), "outside RAM"));
  for (VirtqueueChain& chain : chains) fixture.queue->push(std::move(chain), 0);
  fixture.driver.descriptor(broken).address = buffer.address;
  fixture.queue->push(std::move(*fixture.pop()), 0);
  fixture.queue->publish();
  for (int i = 0; i < 4; ++i) REQUIRE(fixture.driver.next_used().has_value());
}

TEST_CASE("a readable buffer after a writable one is refused") {
  Fixture fixture;
  const GuestBuffer buffer = fixture.guest.allocate(8);
  fixture.driver.chain().writable(buffer).readable(buffer).send();
  CHECK(has(fixture.pop_error(), "follows a writable"));
}

TEST_CASE("more buffers than the device takes are refused") {
  Fixture fixture;
  const GuestBuffer buffer = fixture.guest.allocate(8);
  ChainBuilder builder = fixture.driver.chain();
  for (int i = 0; i <= kSegments; ++i) builder.readable(buffer);
  builder.send();
  CHECK(has(fixture.pop_error(), "more than 8 buffers"));
}

TEST_CASE("indirect descriptors that break the rules are refused") {
  const auto error_of = [](uint64_t features, FakeDescriptor head, FakeDescriptor inner) {
    Fixture fixture(features);
    const GuestBuffer table = fixture.guest.place(inner);
    if (head.address == 0) head.address = table.address;
    fixture.raw({head});
    return fixture.pop_error();
  };
  const FakeDescriptor good{.address = 0, .length = 16, .flags = kFakeDescIndirect};
  const FakeDescriptor inner{.address = 4096, .length = 8};
  CHECK(error_of(kAll, good, inner).empty());
  CHECK(has(error_of(kVirtioFVersion1, good, inner), "not negotiated"));
  FakeDescriptor bad = good;
  bad.flags |= kFakeDescNext;
  CHECK(has(error_of(kAll, bad, inner), "has a next one"));
  for (const uint32_t length : {0U, 8U, 17U}) {
    bad = good;
    bad.length = length;
    CHECK(has(error_of(kAll, bad, inner), "table has"));
  }
  bad = good;
  bad.address = kRam - 8;
  CHECK(has(error_of(kAll, bad, inner), "table is outside RAM"));
  bad = good;
  bad.length = 0xfffffff0;
  CHECK(has(error_of(kAll, bad, inner), "table is outside RAM"));
  CHECK(has(error_of(kAll, good, {.address = 4096, .length = 16, .flags = kFakeDescIndirect}),
            "inside an indirect table"));
  CHECK(has(error_of(kAll, good, {.address = 4096, .length = 8, .flags = kFakeDescNext, .next = 1}),
            "beyond its table"));
}

// Not for ThreadSanitizer: the race is what is tested.
#ifndef __SANITIZE_THREAD__
TEST_CASE("kvm-host #49: descriptors that change under our hands never lead outside RAM") {
  Fixture fixture;
  const uint16_t head = fixture.driver.allocate_descriptor();
  FakeDescriptor& descriptor = fixture.driver.descriptor(head);
  std::atomic<bool> stop = false;
  std::thread guest([&] {
    constexpr uint16_t kFlags[] = {0, kFakeDescWrite, kFakeDescNext, kFakeDescIndirect};
    for (uint64_t i = 0; !stop; ++i) {
      const bool good = i % 2 == 0;
      __atomic_store_n(&descriptor.address, good ? kRam - 16 : kRam - 1, __ATOMIC_RELAXED);
      __atomic_store_n(&descriptor.length, good ? 16U : 1U, __ATOMIC_RELAXED);
      __atomic_store_n(&descriptor.flags, kFlags[i / 2 % 4], __ATOMIC_RELAXED);
      __atomic_store_n(&descriptor.next, static_cast<uint16_t>(good ? 1 : 0xffff),
                       __ATOMIC_RELAXED);
    }
  });
  const auto* start = fixture.guest.memory().at(0, kRam);
  fixture.driver.add_available_entry(head);
  fixture.driver.publish();
  for (int i = 0; i < 20'000; ++i) {
    // A chain that is refused stays the next one, so each round looks at it again.
    Result<std::optional<VirtqueueChain>> popped = fixture.queue->pop();
    if (!popped.ok()) continue;
    for (const auto parts : {(*popped)->readable(), (*popped)->writable()}) {
      for (const iovec& part : parts) {
        const auto* at = static_cast<const std::byte*>(part.iov_base);
        ENSURE(at >= start && part.iov_len <= kRam && at + part.iov_len <= start + kRam);
      }
    }
    fixture.queue->push(std::move(**popped), 0);
    fixture.driver.add_available_entry(head);
    fixture.driver.publish();
  }
  stop = true;
  guest.join();
}
#endif

}  // namespace plumb
