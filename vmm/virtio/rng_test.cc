#include "vmm/virtio/rng.h"

#include <catch2/catch.hpp>

#include "tests/fakes/fake_driver.h"

namespace plumb {
namespace {

struct Fixture {
  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  FakeGuest guest;
  VirtioRng rng{*thread};
  FakeDriver driver{guest, rng};
};

}  // namespace

TEST_CASE("a request is filled with random bytes, over several buffers") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  const GuestBuffer first = fixture.guest.allocate(100);
  const GuestBuffer second = fixture.guest.allocate(156);
  fixture.driver.queue().chain().writable(first).writable(second).send();
  CHECK(fixture.driver.queue().wait_used().length == 256);
  CHECK(!first.all(0));
  CHECK(!second.all(0));
  CHECK(std::memcmp(first.host, second.host, 100) != 0);
}

TEST_CASE("a huge request gets the most there is at once") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  const GuestBuffer huge = fixture.guest.allocate(1U << 20U);
  fixture.driver.queue().chain().writable(huge).send();
  CHECK(fixture.driver.queue().wait_used().length == VirtioRng::kMaxBytes);
  CHECK(huge.part(VirtioRng::kMaxBytes, 4096).all(0));
}

TEST_CASE("a request without room gets nothing, and is answered") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  const GuestBuffer buffer = fixture.guest.allocate(16);
  fixture.driver.queue().chain().readable(buffer).send();
  CHECK(fixture.driver.queue().wait_used().length == 0);
  CHECK(buffer.all(0));
}

TEST_CASE("a broken ring asks for a reset once, and works after it") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  fixture.driver.queue().set_available_index(1000);
  fixture.driver.queue().kick();
  fixture.driver.reset_needed.acquire();
  fixture.driver.queue().kick();
  fixture.thread->run([] {});
  CHECK(fixture.driver.resets_needed == 1);
  fixture.driver.reset();
  REQUIRE(fixture.driver.start().ok());
  fixture.driver.queue().chain().writable(fixture.guest.allocate(8)).send();
  CHECK(fixture.driver.queue().wait_used().length == 8);
}

TEST_CASE("queues that cannot be used are refused, one not enabled is left alone") {
  Fixture fixture;
  CHECK(!fixture.driver.start_with(~0ULL, {128}).ok());
  const VirtioQueueSetup off{};
  CHECK(fixture.rng
            .activate({.features = kVirtioFVersion1,
                       .queues = std::span(&off, 1),
                       .memory = &fixture.guest.memory(),
                       .interrupt = &fixture.driver})
            .ok());
}

}  // namespace plumb
