// What a driver must not do to a disk, each case named after the bug, here or elsewhere, that it
// would have been. A request that is malformed is answered with an error; a ring that is broken
// asks for a reset; either way the disk goes on, and every chain comes back once.
#include <catch2/catch.hpp>
#include <functional>
#include <set>
#include <thread>

#include "tests/fakes/blk_fixture.h"

namespace plumb {
namespace {

using Fixture = BlkFixture;

// What a guest writes it still reads back.
void check_healthy(Fixture& fixture) {
  static unsigned char content = 0;
  const GuestBuffer out = fixture.guest.allocate(4096);
  const GuestBuffer in = fixture.guest.allocate(4096);
  out.fill(++content);
  REQUIRE(fixture.write(64, out) == kBlkOk);
  REQUIRE(fixture.read(64, in) == kBlkOk);
  REQUIRE(in.all(content));
}

// One request by hand: its head is answered, with that status.
void check_answered(Fixture& fixture, uint8_t verdict,
                    const std::function<void(ChainBuilder&)>& build) {
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer status = fixture.guest.allocate(1);
  status.fill(0xff);
  ChainBuilder chain = queue.chain();
  build(chain);
  const uint16_t head = chain.writable(status).send();
  CHECK(queue.wait_used().head == head);
  CHECK(status.byte() == verdict);
  CHECK(fixture.driver->resets_needed == 0);
  check_healthy(fixture);
}

// A queue broken by `attack` asks for one reset; the disk's other queue goes on; after the reset
// both do.
void check_resets(const std::function<void(Fixture&, FakeQueue&)>& attack) {
  Fixture fixture(CacheMode::kWritethrough, 2);
  REQUIRE(fixture.driver->start().ok());
  check_healthy(fixture);
  FakeQueue& broken = fixture.driver->queue(1);
  attack(fixture, broken);
  broken.kick();
  fixture.driver->reset_needed.acquire();
  broken.kick();
  check_healthy(fixture);
  CHECK(fixture.driver->resets_needed == 1);
  fixture.driver->reset();
  REQUIRE(fixture.driver->start().ok());
  check_healthy(fixture);
  const GuestBuffer status = fixture.guest.allocate(1);
  status.fill(0xff);
  fixture.driver->queue(1).chain().readable(fixture.header(4, 0)).writable(status).send();
  fixture.driver->queue(1).wait_used();
  CHECK(status.byte() == kBlkOk);
}

// One available chain of these descriptors, the first its head.
void send_raw(FakeQueue& queue, const std::vector<FakeDescriptor>& descriptors) {
  std::vector<uint16_t> index;
  for (size_t i = 0; i < descriptors.size(); ++i) index.push_back(queue.allocate_descriptor());
  for (size_t i = 0; i < descriptors.size(); ++i) {
    queue.descriptor(index[i]) = descriptors[i];
    if (i + 1 < descriptors.size()) queue.descriptor(index[i]).next = index[i + 1];
  }
  queue.add_available_entry(index[0]);
  queue.publish();
}

}  // namespace

// --- Requests ---

TEST_CASE("CVE-2011-1750: a disk answers lengths that are no multiple of 512 and goes on") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  for (const uint32_t bytes : {1U, 511U, 513U, 4095U}) {
    const GuestBuffer data = fixture.guest.allocate(bytes + 16);
    check_answered(fixture, kBlkIoError, [&](ChainBuilder& chain) {
      chain.readable(fixture.header(1, 0)).readable(data.part(0, bytes));
    });
    data.fill(0x5a);
    check_answered(fixture, kBlkIoError, [&](ChainBuilder& chain) {
      chain.readable(fixture.header(0, 0)).writable(data.part(0, bytes));
    });
    CHECK(data.all(0x5a));
  }
}

TEST_CASE("CVE-2026-48914: a SCSI command is unsupported, and nothing of its answer is written") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer answer = fixture.guest.allocate(256);
  answer.fill(0x5a);
  for (const uint32_t type : {2U, 3U, 0x80000002U}) {
    check_answered(fixture, kBlkUnsupported, [&](ChainBuilder& chain) {
      chain.readable(fixture.header(type, 0))
          .readable(fixture.guest.text("\x12\x01\x80 inquiry"))
          .writable(answer.part(0, 96))
          .writable(answer.part(96, 16));
    });
  }
  CHECK(answer.all(0x5a));
  CHECK(fixture.driver->queue().chain().readable(fixture.header(2, 0)).send() < 256);
  CHECK(fixture.driver->queue().wait_used().length == 0);
}

TEST_CASE("CH #8388, OpenVMM #4046: sectors whose bytes wrap or end beyond the disk are answered") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer data = fixture.guest.allocate(1024);
  constexpr uint64_t kLast = kBlkFixtureBytes / 512 - 1;
  for (const uint64_t sector :
       {kLast, kLast + 1, uint64_t{1} << 55U, (uint64_t{1} << 55U) + kLast, ~uint64_t{0}}) {
    check_answered(fixture, kBlkIoError, [&](ChainBuilder& chain) {
      chain.readable(fixture.header(1, sector)).readable(data);
    });
    check_answered(fixture, kBlkIoError, [&](ChainBuilder& chain) {
      chain.readable(fixture.header(0, sector)).writable(data);
    });
    for (const uint32_t type : {11U, 13U}) {
      CHECK(fixture.range(type, sector, 2) == kBlkIoError);
      CHECK(fixture.range(type, sector, 0xffffffff) == kBlkIoError);
    }
  }
  fixture.on_thread([&] {
    for (const SpyDevice::Seen& seen : fixture.control.seen) {
      CHECK((seen.op == BlockOp::kRead || seen.op == BlockOp::kWrite));
    }
  });
  check_healthy(fixture);
}

TEST_CASE("kvm-host #49: a header and descriptors that change after the check change nothing") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer data = fixture.guest.allocate(512);
  const GuestBuffer status = fixture.guest.allocate(1);
  data.fill(0x11);
  REQUIRE(fixture.write(0, data) == kBlkOk);
  REQUIRE(fixture.write(8, data) == kBlkOk);
  fixture.on_thread([&] { fixture.control.keep = true; });
  const GuestBuffer header = fixture.header(1, 8);
  data.fill(0x22);
  const uint16_t head = queue.chain().readable(header).readable(data).writable(status).send();
  fixture.wait_kept(1);
  // At the disk: now it would be a read, of another sector, beyond the end of RAM.
  header.fill(0);
  for (uint16_t i = 0; i < queue.size(); ++i) {
    queue.descriptor(i) = {.address = ~0ULL, .length = 0xffffffff, .flags = 0xffff, .next = 0xffff};
  }
  fixture.on_thread([&] {
    BlockRequest& kept = *fixture.control.kept.front();
    CHECK(kept.op == BlockOp::kWrite);
    CHECK(kept.offset == 8 * 512);
    CHECK(kept.length == 512);
    CHECK(kept.iov[0].iov_base == data.host);
    CHECK(kept.iov[0].iov_len == 512);
    fixture.control.keep = false;
  });
  fixture.let_go();
  CHECK(queue.wait_used() == FakeQueue::Used{head, 1});
  CHECK(status.byte() == kBlkOk);
  check_healthy(fixture);
}

TEST_CASE("CVE-2016-5403: more chains than slots wait in the ring, and all are answered") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue();
  constexpr size_t kChains = 250;
  const GuestBuffer status = fixture.guest.allocate(kChains);
  status.fill(0xff);
  const GuestBuffer data = fixture.guest.allocate(512);
  const GuestBuffer header = fixture.header(1, 0);
  fixture.on_thread([&] { fixture.control.keep = true; });
  for (uint32_t i = 0; i < kChains; ++i) {
    queue.chain()
        .indirect()
        .readable(header)
        .readable(data)
        .writable(status.part(i, 1))
        .add_available();
  }
  queue.publish();
  queue.kick();
  fixture.wait_kept(VirtioBlk::kSlotsPerQueue);
  fixture.on_thread([&] {
    ENSURE(fixture.control.kept.size() == VirtioBlk::kSlotsPerQueue);
    fixture.control.keep = false;
  });
  fixture.let_go();
  for (size_t i = 0; i < kChains; ++i) queue.wait_used();
  CHECK(status.all(kBlkOk));
  fixture.on_thread([&] { CHECK(fixture.disk->in_flight() == 0); });
}

TEST_CASE("CH #8401: malformed requests are answered, and valid ones go on") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer data = fixture.guest.allocate(512);
  for (int round = 0; round < 400; ++round) {
    const GuestBuffer status = fixture.guest.allocate(1);
    status.fill(0xff);
    const uint16_t head = [&] {
      switch (round % 5) {
        case 0:  // nowhere to answer to
          return queue.chain().readable(fixture.header(1, 0)).readable(data).send();
        case 1:  // no header
          return queue.chain().writable(status).send();
        case 2:  // unknown type
          return queue.chain().readable(fixture.header(99, 0)).writable(status).send();
        case 3:  // beyond the end
          return queue.chain()
              .readable(fixture.header(1, ~0ULL))
              .readable(data)
              .writable(status)
              .send();
        default:  // half a sector
          return queue.chain()
              .readable(fixture.header(0, 0))
              .writable(data.part(0, 256))
              .writable(status)
              .send();
      }
    }();
    const FakeQueue::Used used = queue.wait_used();
    CHECK(used.head == head);
    if (round % 5 == 0) CHECK(used.length == 0);
    if (round % 5 == 2) CHECK(status.byte() == kBlkUnsupported);
    if (round % 5 != 0) CHECK(status.byte() != kBlkOk);
  }
  CHECK(fixture.write(0, data) == kBlkOk);
  CHECK(fixture.driver->resets_needed == 0);
}

TEST_CASE(
    "CH #8142: a broken ring asks for a reset, the other queues go on, and a reset heals it") {
  Fixture fixture(CacheMode::kWritethrough, 2);
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& broken = fixture.driver->queue(1);
  broken.add_available_entry(9999);
  broken.publish();
  broken.kick();
  fixture.driver->reset_needed.acquire();
  CHECK(fixture.driver->resets_needed == 1);
  CHECK(fixture.flush() == kBlkOk);
  broken.kick();
  fixture.on_thread([] {});
  CHECK(fixture.driver->resets_needed == 1);
  fixture.driver->reset();
  REQUIRE(fixture.driver->start().ok());
  CHECK(fixture.flush() == kBlkOk);
}

TEST_CASE(
    "CVE-2026-45782, CVE-2025-38074: a reset waits for what is in flight and then touches "
    "nothing") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  fixture.on_thread([&] { fixture.control.keep = true; });
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer status = fixture.guest.allocate(16);
  status.fill(0xff);
  const GuestBuffer data = fixture.guest.allocate(512);
  for (uint32_t i = 0; i < 16; ++i) {
    queue.chain().readable(fixture.header(0, 0)).writable(data).writable(status.part(i, 1)).send();
  }
  fixture.wait_kept(16);
  std::atomic<bool> returned = false;
  std::thread reset([&] {
    fixture.driver->reset();
    returned = true;
  });
  // The reset has begun once a kick is not followed any more.
  size_t kept = 16;
  for (size_t before = 0; kept > before;) {
    before = kept;
    std::this_thread::yield();
    queue.chain().indirect().readable(fixture.header(4, 0)).writable(status.part(0, 1)).send();
    fixture.on_thread([] {});
    fixture.on_thread([&] { kept = fixture.control.kept.size(); });
  }
  CHECK(!returned);
  fixture.let_go();
  reset.join();
  CHECK(status.all(0xff));
  CHECK(queue.used_index() == 0);
  CHECK(queue.interrupts == 0);
  fixture.on_thread([&] { fixture.control.keep = false; });
  REQUIRE(fixture.driver->start().ok());
  CHECK(fixture.flush() == kBlkOk);
}

TEST_CASE("CVE-2026-50626, QEMU #3882: queues larger than offered or outside RAM are refused") {
  Fixture fixture;
  CHECK(!fixture.driver->start_with(~0ULL, {512}).ok());
  VirtioQueueSetup outside{.enabled = true, .size = 16, .descriptors = 1ULL << 40U};
  const std::span<const VirtioQueueSetup> queues(&outside, 1);
  CHECK(!fixture.blk
             ->activate({.features = kVirtioFVersion1,
                         .queues = queues,
                         .memory = &fixture.guest.memory(),
                         .interrupt = fixture.driver.get()})
             .ok());
  REQUIRE(fixture.driver->start_with(~0ULL, {2}).ok());
}

TEST_CASE("GHSA-jmr4-g2hv-mjj6: a qcow2 header that the guest writes changes nothing") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer out = fixture.guest.allocate(512);
  std::memcpy(out.host, "QFI\xfb\0\0\0\3\0\0\0\0\0\0\0\x70/etc/passwd", 27);
  const GuestBuffer in = fixture.guest.allocate(512);
  REQUIRE(fixture.write(0, out) == kBlkOk);
  fixture.driver->reset();
  REQUIRE(fixture.driver->start().ok());
  REQUIRE(fixture.read(0, in) == kBlkOk);
  CHECK(std::memcmp(in.host, out.host, 512) == 0);
}

// --- Rings ---

TEST_CASE("OpenVMM #4045: entries, indices and next descriptors out of bounds need a reset") {
  check_resets([](Fixture&, FakeQueue& queue) {
    queue.add_available_entry(VirtioBlk::kQueueSize);
    queue.publish();
  });
  check_resets(
      [](Fixture&, FakeQueue& queue) { queue.set_available_index(VirtioBlk::kQueueSize + 1); });
  check_resets([](Fixture&, FakeQueue& queue) {
    send_raw(queue, {{.address = 4096, .length = 16, .flags = kFakeDescNext, .next = 0xffff}});
  });
}

TEST_CASE("HexHive virtio-blk-01, CVE-2026-16457: a chain that is a loop needs a reset") {
  for (const uint32_t length : {0U, 16U}) {
    check_resets([&](Fixture&, FakeQueue& queue) {
      const uint16_t head = queue.allocate_descriptor();
      queue.descriptor(head) = {
          .address = 4096, .length = length, .flags = kFakeDescNext, .next = head};
      queue.add_available_entry(head);
      queue.publish();
    });
  }
}

TEST_CASE("Firecracker #3149: an available index that moves back needs a reset") {
  check_resets([](Fixture& fixture, FakeQueue& queue) {
    queue.chain().readable(fixture.header(4, 0)).writable(fixture.guest.allocate(1)).send();
    queue.wait_used();
    queue.set_available_index(0);
  });
}

TEST_CASE("CVE-2016-7422, CVE-2019-18960, OpenVMM #4047: a buffer outside RAM needs a reset") {
  constexpr uint64_t kRam = 32U << 20U;
  for (const FakeDescriptor& bad : {FakeDescriptor{.address = kRam - 511, .length = 512},
                                    FakeDescriptor{.address = 4096, .length = 0xffffffff},
                                    FakeDescriptor{.address = ~0ULL - 15, .length = 16},
                                    FakeDescriptor{.address = ~0ULL, .length = 0xffffffff}}) {
    check_resets([&](Fixture& fixture, FakeQueue& queue) {
      const GuestBuffer header = fixture.header(1, 0);
      const GuestBuffer status = fixture.guest.allocate(1);
      send_raw(queue, {{.address = header.address, .length = 16, .flags = kFakeDescNext},
                       {.address = bad.address, .length = bad.length, .flags = kFakeDescNext},
                       {.address = status.address, .length = 1, .flags = kFakeDescWrite}});
    });
  }
}

TEST_CASE("CVE-2021-29631: after a bad descriptor nothing of its chain reaches the disk") {
  check_resets([](Fixture& fixture, FakeQueue& queue) {
    const GuestBuffer header = fixture.header(4, 0);
    send_raw(queue, {{.address = header.address, .length = 16, .flags = kFakeDescNext},
                     {.address = ~0ULL, .length = 1, .flags = kFakeDescWrite}});
    fixture.on_thread([&] { fixture.control.seen.clear(); });
    queue.kick();
    fixture.on_thread([] {});
    fixture.on_thread([&] { CHECK(fixture.control.seen.empty()); });
  });
}

TEST_CASE("Firecracker #1296: a request whose data ends exactly at the top of RAM works") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  constexpr uint64_t kRam = 32U << 20U;
  const GuestBuffer top{
      .address = kRam - 512, .length = 512, .host = fixture.guest.memory().at(kRam - 512, 512)};
  const GuestBuffer out = fixture.guest.allocate(512);
  out.fill(0x77);
  REQUIRE(fixture.write(5, out) == kBlkOk);
  REQUIRE(fixture.read(5, top) == kBlkOk);
  CHECK(top.all(0x77));
}

TEST_CASE("CVE-2026-45782: a ring that breaks with requests in flight, and a reset then") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue();
  const GuestBuffer data = fixture.guest.allocate(512);
  const GuestBuffer status = fixture.guest.allocate(8);
  fixture.on_thread([&] { fixture.control.keep = true; });
  for (uint32_t i = 0; i < 8; ++i) {
    queue.chain().readable(fixture.header(0, 0)).writable(data).writable(status.part(i, 1)).send();
  }
  fixture.wait_kept(8);
  queue.add_available_entry(9999);
  queue.publish();
  queue.kick();
  fixture.driver->reset_needed.acquire();
  fixture.on_thread([&] { fixture.control.keep = false; });
  // Half of them end before the reset, half while it waits.
  fixture.on_thread([&] {
    for (int i = 0; i < 4; ++i) {
      BlockRequest* request = fixture.control.kept.back();
      fixture.control.kept.pop_back();
      request->done(*request);
    }
  });
  std::thread reset([&] { fixture.driver->reset(); });
  fixture.let_go();
  reset.join();
  REQUIRE(fixture.driver->start().ok());
  check_healthy(fixture);
}

TEST_CASE(
    "CVE-2026-16457: a driver that refills its ring for ever leaves the other queue its turn") {
  Fixture fixture(CacheMode::kWritethrough, 2);
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& busy = fixture.driver->queue(1);
  const GuestBuffer header = fixture.header(99, 0);  // answered at once, without the disk
  const GuestBuffer status = fixture.guest.allocate(1);
  std::atomic<bool> stop = false;
  std::thread guest([&] {
    for (int waiting = 0; !stop;) {
      for (; waiting < 64; ++waiting) {
        busy.chain().readable(header).writable(status).add_available();
      }
      busy.publish();
      busy.kick();
      while (busy.next_used()) --waiting;
    }
  });
  for (int i = 0; i < 200; ++i) CHECK(fixture.flush() == kBlkOk);
  stop = true;
  guest.join();
}

}  // namespace plumb
