#include "vmm/virtio/queue.h"

#include <catch2/catch.hpp>
#include <thread>

#include "tests/fakes/fake_driver.h"

namespace plumb {
namespace {

constexpr uint64_t kAll = kVirtioFIndirectDesc | kVirtioFEventIdx | kVirtioFVersion1;
constexpr uint16_t kSegments = 8;
constexpr uint64_t kRam = 8U << 20U;

struct Fixture {
  explicit Fixture(uint64_t negotiated = kAll, uint16_t size = 16)
      : features(negotiated), driver(guest, size) {
    queue = Virtqueue::create(driver.setup(), features, guest.memory(), kSegments).value();
  }
  std::optional<VirtqueueChain> pop() { return std::move(queue->pop()).value(); }
  // The error of the next pop(); "" when there is none.
  std::string pop_error() {
    Result<std::optional<VirtqueueChain>> popped = queue->pop();
    if (!popped.ok()) return popped.error().message;
    if (popped->has_value()) queue->abandon(std::move(**popped));
    return "";
  }
  // One available chain made of these raw descriptors, the first its head.
  void raw(std::vector<FakeDescriptor> descriptors) {
    const uint16_t head = driver.allocate_descriptor();
    driver.descriptor(head) = descriptors[0];
    for (size_t i = 1; i < descriptors.size(); ++i) {
      driver.descriptor(static_cast<uint16_t>(i)) = descriptors[i];
    }
    driver.add_available_entry(head);
    driver.publish();
  }

  FakeGuest guest{kRam};
  uint64_t features;
  FakeQueue driver;
  std::unique_ptr<Virtqueue> queue;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string create_error(const VirtioQueueSetup& setup, const FakeGuest& guest) {
  auto created = Virtqueue::create(setup, kAll, guest.memory(), kSegments);
  return created.ok() ? "" : created.error().message;
}

}  // namespace

TEST_CASE("an empty ring gives no chain") {
  Fixture fixture;
  CHECK(!fixture.pop().has_value());
  CHECK(!fixture.queue->publish());
}

TEST_CASE("a chain's buffers come in order, readable before writable, without a copy") {
  Fixture fixture;
  const GuestBuffer first = fixture.guest.text("first");
  const GuestBuffer second = fixture.guest.text("second");
  const GuestBuffer third = fixture.guest.allocate(100);
  const uint16_t head =
      fixture.driver.chain().readable(first).readable(second).writable(third).send();
  auto chain = fixture.pop();
  REQUIRE(chain.has_value());
  CHECK(chain->head() == head);
  REQUIRE(chain->readable().size() == 2);
  REQUIRE(chain->writable().size() == 1);
  CHECK(chain->readable()[0].iov_base == first.host);
  CHECK(chain->readable()[1].iov_len == 6);
  CHECK(chain->writable()[0].iov_base == third.host);
  CHECK(!fixture.pop().has_value());
  fixture.queue->push(std::move(*chain), 33);
  CHECK(fixture.driver.used_index() == 0);  // not before publish
  CHECK(fixture.queue->publish());
  CHECK(fixture.driver.next_used() == FakeQueue::Used{head, 33});
}

TEST_CASE("an indirect table is followed, alone or after direct descriptors") {
  Fixture fixture;
  const GuestBuffer in = fixture.guest.allocate(10);
  const GuestBuffer out = fixture.guest.allocate(20);
  fixture.driver.chain().indirect().readable(in).writable(out).send();
  fixture.driver.chain().readable(in).indirect().readable(in).writable(out).send();
  for (const size_t readable : {1U, 2U}) {
    auto chain = fixture.pop();
    REQUIRE(chain.has_value());
    CHECK(chain->readable().size() == readable);
    CHECK(chain->writable().size() == 1);
    fixture.queue->push(std::move(*chain), 0);
  }
}

TEST_CASE("an indirect table may hold more buffers than the queue has descriptors") {
  Fixture fixture(kAll, 2);
  ChainBuilder builder = fixture.driver.chain().indirect();
  for (int i = 0; i < kSegments; ++i) builder.writable(fixture.guest.allocate(16));
  builder.send();
  auto chain = fixture.pop();
  REQUIRE(chain.has_value());
  CHECK(chain->writable().size() == kSegments);
  fixture.queue->push(std::move(*chain), 0);
}

TEST_CASE("many rounds wrap the 16-bit indices, and every head comes back once") {
  for (const uint64_t features : {kAll, kVirtioFVersion1}) {
    Fixture fixture(features, 4);
    const GuestBuffer buffer = fixture.guest.allocate(64);
    for (unsigned round = 0; round < 70'000; ++round) {
      const uint16_t head = fixture.driver.chain().readable(buffer).send();
      auto chain = fixture.pop();
      ENSURE(chain.has_value());
      fixture.queue->push(std::move(*chain), round);
      fixture.queue->publish();
      ENSURE((fixture.driver.next_used() == FakeQueue::Used{head, round}));
    }
  }
}

TEST_CASE("chains may be given back in any order") {
  Fixture fixture;
  const GuestBuffer buffer = fixture.guest.allocate(64);
  std::vector<VirtqueueChain> chains;
  std::vector<uint16_t> heads;
  for (int i = 0; i < 16; ++i) heads.push_back(fixture.driver.chain().readable(buffer).send());
  for (int i = 0; i < 16; ++i) chains.push_back(std::move(*fixture.pop()));
  while (!chains.empty()) {
    fixture.queue->push(std::move(chains.back()), 0);
    chains.pop_back();
  }
  fixture.queue->publish();
  for (int i = 15; i >= 0; --i) CHECK(fixture.driver.next_used()->head == heads[i]);
}

TEST_CASE("interrupts without EVENT_IDX follow the driver's flag") {
  Fixture fixture(kVirtioFVersion1);
  const GuestBuffer buffer = fixture.guest.allocate(64);
  for (const bool quiet : {false, true}) {
    fixture.driver.set_no_interrupt(quiet);
    fixture.driver.chain().readable(buffer).send();
    fixture.queue->push(std::move(*fixture.pop()), 0);
    CHECK(fixture.queue->publish() == !quiet);
    CHECK(!fixture.queue->publish());  // nothing new
  }
}

TEST_CASE("interrupts with EVENT_IDX come when the event is passed, once per batch") {
  Fixture fixture;
  const GuestBuffer buffer = fixture.guest.allocate(64);
  const auto serve = [&](int count) {
    for (int i = 0; i < count; ++i) fixture.driver.chain().readable(buffer).send();
    for (int i = 0; i < count; ++i) fixture.queue->push(std::move(*fixture.pop()), 0);
    const bool interrupt = fixture.queue->publish();
    while (fixture.driver.next_used()) {
    }
    return interrupt;
  };
  fixture.driver.set_used_event(2);
  CHECK(!serve(2));  // 0, 1
  CHECK(serve(1));   // 2
  CHECK(!serve(3));  // 3, 4, 5: the event is behind
  fixture.driver.set_used_event(7);
  CHECK(serve(4));  // 6, 7, 8, 9
}

TEST_CASE("kicks are asked for at the right place, and what slipped in is seen") {
  for (const uint64_t features : {kAll, kVirtioFVersion1}) {
    Fixture fixture(features);
    const GuestBuffer buffer = fixture.guest.allocate(64);
    fixture.queue->disable_kicks();
    if (features == kVirtioFVersion1) CHECK(fixture.driver.used_flags() == 1);
    fixture.driver.chain().readable(buffer).send();
    CHECK(fixture.queue->enable_kicks());
    fixture.queue->push(std::move(*fixture.pop()), 0);
    CHECK(!fixture.queue->enable_kicks());
    CHECK(fixture.driver.used_flags() == 0);
    if (features == kAll) CHECK(fixture.driver.avail_event() == 1);
  }
}

TEST_CASE("an empty buffer is nothing") {
  Fixture fixture;
  const GuestBuffer some = fixture.guest.allocate(10);
  fixture.driver.chain().readable({.address = 0, .length = 0}).readable(some).send();
  auto chain = fixture.pop();
  REQUIRE(chain.has_value());
  CHECK(chain->readable().size() == 1);
  fixture.queue->push(std::move(*chain), 0);
}

TEST_CASE("an abandoned chain is free again and never seen by the driver") {
  Fixture fixture;
  fixture.driver.chain().readable(fixture.guest.allocate(8)).send();
  fixture.queue->abandon(std::move(*fixture.pop()));
  CHECK(!fixture.queue->publish());
  CHECK(fixture.driver.used_index() == 0);
}

// --- What a driver must not do ---

TEST_CASE("create: a queue that is no queue is refused") {
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

TEST_CASE("create: rings that end exactly at the top of RAM work") {
  FakeGuest guest(kRam);
  VirtioQueueSetup setup{.enabled = true, .size = 16};
  setup.descriptors = kRam - 256;
  setup.driver_ring = kRam - 256 - 38;
  setup.device_ring = kRam - 512;
  CHECK(create_error(setup, guest).empty());
  setup.device_ring = kRam - 134 - 2;  // 134 bytes, 4-aligned
  CHECK(create_error(setup, guest).empty());
}

TEST_CASE("bug class 7: ring entries and indices out of bounds") {
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

TEST_CASE("bug class 7 and 16: chain loops end") {
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

TEST_CASE("bug class 8: the available index moved back, or a head given twice") {
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

TEST_CASE("bug class 8: a buffer that ends exactly at the top of RAM works, one byte more not") {
  Fixture fixture;
  fixture.raw({{.address = kRam - 512, .length = 512}});
  auto chain = fixture.pop();
  REQUIRE(chain.has_value());
  CHECK(chain->readable()[0].iov_len == 512);
  fixture.queue->push(std::move(*chain), 0);
  fixture.raw({{.address = kRam - 511, .length = 512}});
  CHECK(has(fixture.pop_error(), "outside RAM"));
}

TEST_CASE("bug class 6 and 9: lengths and sums that wrap, buffers in holes") {
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

TEST_CASE("bug class 10: a chain whose second descriptor is bad gives nothing at all") {
  Fixture fixture;
  fixture.raw({{.address = 4096, .length = 8, .flags = kFakeDescNext, .next = 1},
               {.address = kRam, .length = 8}});
  CHECK(has(fixture.pop_error(), "outside RAM"));
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
TEST_CASE("bug class 23: descriptors that change under our hands never lead outside RAM") {
  Fixture fixture;
  const uint16_t head = fixture.driver.allocate_descriptor();
  FakeDescriptor& descriptor = fixture.driver.descriptor(head);
  std::atomic<bool> stop = false;
  std::thread guest([&] {
    for (uint64_t i = 0; !stop; ++i) {
      const bool good = i % 2 == 0;
      __atomic_store_n(&descriptor.address, good ? kRam - 16 : kRam - 1, __ATOMIC_RELAXED);
      __atomic_store_n(&descriptor.length, good ? 16U : 1U, __ATOMIC_RELAXED);
    }
  });
  const auto* start = fixture.guest.memory().at(0, kRam);
  fixture.driver.add_available_entry(head);
  fixture.driver.publish();
  for (int i = 0; i < 20'000; ++i) {
    // A chain that is refused stays the next one, so each round looks at it again.
    Result<std::optional<VirtqueueChain>> popped = fixture.queue->pop();
    if (!popped.ok()) continue;
    for (const iovec& part : (*popped)->readable()) {
      const auto* at = static_cast<const std::byte*>(part.iov_base);
      ENSURE(at >= start && part.iov_len <= kRam && at + part.iov_len <= start + kRam);
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
