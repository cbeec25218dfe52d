#include "vmm/virtio/queue.h"

#include <catch2/catch.hpp>

#include "tests/fakes/queue_fixture.h"

namespace plumb {
namespace {

using Fixture = QueueFixture;
constexpr uint64_t kAll = kQueueFeatures;
constexpr uint16_t kSegments = kQueueSegments;

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

}  // namespace plumb
