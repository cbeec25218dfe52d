#include "vmm/virtio/scsi.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <optional>

#include "base/endian.h"
#include "blockdev/disk.h"
#include "blockdev/scsi_disk.h"
#include "tests/fakes/fake_driver.h"
#include "tests/fakes/stubborn_device.h"

namespace plumb {
namespace {

constexpr uint32_t kBlocks = 256;
constexpr uint8_t kTarget = 3;
constexpr size_t kRequests = 2;  // the index of the first request queue
constexpr uint32_t kSense = 96;

// A command as a driver sends it, and what came back.
struct Command {
  GuestBuffer header;
  GuestBuffer response;
  GuestBuffer data;
  uint16_t head = 0;

  uint32_t sense_length() const { return load_le<uint32_t>(response.host); }
  uint32_t residual() const { return load_le<uint32_t>(response.host + 4); }
  uint8_t status() const { return response.byte(10); }
  uint8_t code() const { return response.byte(11); }
  ScsiSense sense() const {
    return {response.byte(12 + 2), response.byte(12 + 12), response.byte(12 + 13)};
  }
};

struct Fixture {
  explicit Fixture(ErrorPolicy on_error = ErrorPolicy::kReport) {
    BlockInfo info;
    info.size_bytes = kBlocks * 512;
    info.memory_alignment = 1;
    info.max_discard_bytes = info.max_write_zeroes_bytes = 64U << 10U;
    auto made = std::make_unique<StubbornDevice>(info, *thread);
    device = made.get();
    disk.emplace(Disk::Config{.id = "data", .on_error = on_error}, std::move(made), *thread);
    lun.emplace(*disk, ScsiIdentity{.vendor = "PLUMB",
                                    .product = "VIRTUAL DISK",
                                    .revision = "0001",
                                    .serial = "serial",
                                    .naa = {}});
    scsi.emplace(*thread, 2);
    scsi->add_target(kTarget, *lun);
    driver.emplace(guest, *scsi);
  }
  // And takes the attention that follows power on.
  void start() {
    REQUIRE(driver->start().ok());
    CHECK(run({0x00}).sense() == sense::kPowerOn);
  }
  Command make(std::initializer_list<unsigned> cdb, const ScsiLunAddress& lun_address,
               uint64_t id) {
    Command command;
    command.header = guest.allocate(19 + 32);
    std::memcpy(command.header.host, lun_address.data(), lun_address.size());
    store_le(command.header.host + 8, id);
    size_t at = 19;
    for (const unsigned byte : cdb) command.header.host[at++] = static_cast<std::byte>(byte);
    command.response = guest.allocate(12 + kSense);
    command.response.fill(0xcc);
    return command;
  }
  Command send(std::initializer_list<unsigned> cdb, uint32_t out = 0, uint32_t in = 0,
               uint64_t id = 7, unsigned char fill = 0, size_t queue = kRequests) {
    Command command = make(cdb, address_of(kTarget), id);
    ChainBuilder chain = driver->queue(queue).chain();
    chain.readable(command.header);
    if (out > 0) {
      command.data = guest.allocate(out);
      command.data.fill(fill);
      chain.readable(command.data);
    }
    chain.writable(command.response);
    if (in > 0) {
      command.data = guest.allocate(in);
      command.data.fill(0xee);
      chain.writable(command.data);
    }
    command.head = chain.send();
    return command;
  }
  Command run(std::initializer_list<unsigned> cdb, uint32_t out = 0, uint32_t in = 0,
              unsigned char fill = 0) {
    Command command = send(cdb, out, in, 7, fill);
    CHECK(driver->queue(kRequests).wait_used().head == command.head);
    return command;
  }
  // A task management function; returns its answer, or where it will come.
  GuestBuffer send_task(ScsiTask task, uint64_t id, const ScsiLunAddress& lun_address) {
    const GuestBuffer request = guest.allocate(24);
    store_le(request.host + 4, static_cast<uint32_t>(task));
    std::memcpy(request.host + 8, lun_address.data(), lun_address.size());
    store_le(request.host + 16, id);
    const GuestBuffer response = guest.allocate(1);
    response.fill(0xcc);
    driver->queue(0).chain().readable(request).writable(response).send();
    return response;
  }
  uint8_t task(ScsiTask what, uint64_t id = 0,
               const ScsiLunAddress& lun_address = address_of(kTarget)) {
    const GuestBuffer response = send_task(what, id, lun_address);
    driver->queue(0).wait_used();
    return response.byte();
  }
  void keep() {
    thread->run([this] { device->keep = true; });
  }
  // What is kept, once a reset has given it up.
  void let_go_when_unwanted() {
    thread->post([this] {
      const bool unwanted = !device->kept.empty() && device->kept.front()->unwanted;
      if (!unwanted) return let_go_when_unwanted();
      device->let_go();
    });
  }
  void let_go() {
    thread->run([this] { device->let_go(); });
  }

  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  FakeGuest guest;
  StubbornDevice* device = nullptr;
  std::optional<Disk> disk;
  std::optional<ScsiDisk> lun;
  std::optional<VirtioScsi> scsi;
  std::optional<FakeDriver> driver;
};

}  // namespace

TEST_CASE("virtio-scsi: data written are read, residuals count what was not moved") {
  Fixture fixture;
  fixture.start();
  const Command write = fixture.run({0x2a, 0, 0, 0, 0, 5, 0, 0, 2}, 1024, 0, 0x42);
  CHECK(write.code() == kScsiOk);
  CHECK(write.status() == 0);
  CHECK(write.residual() == 0);
  const Command read = fixture.run({0x28, 0, 0, 0, 0, 5, 0, 0, 2}, 0, 2000);
  CHECK(read.residual() == 2000 - 1024);
  CHECK(read.data.part(0, 1024).all(0x42));
  CHECK(read.data.part(1024, 2000 - 1024).all(0xee));
  const Command inquiry = fixture.run({0x12, 0, 0, 0, 255}, 0, 255);
  CHECK(inquiry.residual() == 255 - 96);
}

TEST_CASE("virtio-scsi: errors come as check conditions with sense data") {
  Fixture fixture;
  fixture.start();
  const Command beyond = fixture.run({0x28, 0, 0, 0, 1, 0, 0, 0, 1}, 0, 512);
  CHECK(beyond.code() == kScsiOk);
  CHECK(beyond.status() == 2);
  CHECK(beyond.sense_length() == 18);
  CHECK(beyond.sense() == sense::kLbaOutOfRange);
  CHECK(beyond.residual() == 512);
  const Command small = fixture.run({0x28, 0, 0, 0, 0, 0, 0, 0, 2}, 0, 512);
  CHECK(small.code() == kScsiOverrun);
}

TEST_CASE("virtio-scsi: headers and data may be cut anywhere") {
  Fixture fixture;
  fixture.start();
  for (uint32_t cut = 1; cut < 19 + 32; cut += 7) {
    Command command = fixture.make({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, address_of(kTarget), 7);
    // The response and the data are one buffer, cut at other places.
    const GuestBuffer in = fixture.guest.allocate(12 + kSense + 512);
    in.fill(0xcc);
    ChainBuilder chain = fixture.driver->queue(kRequests).chain();
    chain.readable(command.header.part(0, cut));
    chain.readable(command.header.part(cut, 19 + 32 - cut));
    chain.writable(in.part(0, cut)).writable(in.part(cut, 12 + kSense + 512 - cut)).send();
    fixture.driver->queue(kRequests).wait_used();
    command.response = in.part(0, 12 + kSense);
    CHECK(command.code() == kScsiOk);
    CHECK(command.status() == 0);
    CHECK(in.part(12 + kSense, 512).all(0));
  }
}

TEST_CASE("virtio-scsi: other addresses are no targets") {
  Fixture fixture;
  fixture.start();
  const ScsiLunAddress none[] = {address_of(4),
                                 {1, kTarget, 0x40, 1},
                                 {0, kTarget, 0x40},
                                 {1, kTarget, 0x40, 0, 1},
                                 {0xc1, 0x01}};
  for (const ScsiLunAddress& address : none) {
    const Command command = fixture.make({0x00}, address, 7);
    fixture.driver->queue(kRequests)
        .chain()
        .readable(command.header)
        .writable(command.response)
        .send();
    fixture.driver->queue(kRequests).wait_used();
    CHECK(command.code() == kScsiBadTarget);
  }
}

TEST_CASE("virtio-scsi: chains without a whole header or response come back, and no more") {
  Fixture fixture;
  fixture.start();
  FakeQueue& queue = fixture.driver->queue(kRequests);
  const Command command = fixture.make({0x00}, address_of(kTarget), 7);
  queue.chain().readable(command.header.part(0, 50)).writable(command.response).send();
  CHECK(queue.wait_used().length == 0);
  queue.chain().readable(command.header).writable(command.response.part(0, 107)).send();
  CHECK(queue.wait_used().length == 0);
  queue.chain().readable(command.header).send();
  CHECK(queue.wait_used().length == 0);
  queue.chain().writable(command.response).send();
  CHECK(queue.wait_used().length == 0);
  CHECK(command.response.all(0xcc));
  const GuestBuffer both = fixture.guest.allocate(512);
  queue.chain()
      .readable(command.header)
      .readable(both)
      .writable(command.response)
      .writable(both)
      .send();
  queue.wait_used();
  CHECK(command.code() == kScsiFailure);
  CHECK(fixture.run({0x00}).status() == 0);
}

TEST_CASE("virtio-scsi: a driver may ask for other sizes of CDB and sense data") {
  Fixture fixture;
  const auto set = [&](uint32_t offset, uint32_t value) {
    fixture.scsi->write_config(offset, std::as_bytes(std::span(&value, 1)));
  };
  set(20, 18);
  set(24, 200);
  set(24, 1U << 31U);  // refused
  CHECK(fixture.driver->config<uint32_t>(20) == 18);
  CHECK(fixture.driver->config<uint32_t>(24) == 200);
  REQUIRE(fixture.driver->start().ok());
  Command command = fixture.make({0x00}, address_of(kTarget), 7);
  const GuestBuffer rest = fixture.guest.allocate(200 - 32);
  fixture.driver->queue(kRequests)
      .chain()
      .readable(command.header)
      .readable(rest)
      .writable(command.response.part(0, 12 + 18))
      .send();
  fixture.driver->queue(kRequests).wait_used();
  CHECK(command.sense_length() == 18);
  CHECK(command.sense() == sense::kPowerOn);
  fixture.driver->reset();
  CHECK(fixture.driver->config<uint32_t>(20) == 96);
  CHECK(fixture.driver->config<uint32_t>(24) == 32);
}

TEST_CASE("virtio-scsi: with all slots in flight, requests wait in the ring") {
  Fixture fixture;
  fixture.start();
  fixture.keep();
  std::vector<Command> commands;
  // Three descriptors each, over two queues.
  constexpr size_t kEach = 80;
  for (size_t i = 0; i < kEach; ++i) {
    for (const size_t queue : {kRequests, kRequests + 1}) {
      commands.push_back(fixture.send({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 512, i, 0, queue));
    }
  }
  fixture.let_go();
  for (size_t i = 0; i < kEach; ++i) {
    fixture.driver->queue(kRequests).wait_used();
    fixture.driver->queue(kRequests + 1).wait_used();
  }
  for (const Command& command : commands) CHECK(command.status() == 0);
}

TEST_CASE("virtio-scsi: what waits in the ring is served when a reset has freed all slots") {
  Fixture fixture;
  fixture.start();
  fixture.thread->run([&] { fixture.disk->hold(kForever, [](Result<>) {}); });
  std::vector<Command> commands;
  constexpr size_t kEach = 80;
  for (size_t i = 0; i < kEach; ++i) {
    for (const size_t queue : {kRequests, kRequests + 1}) {
      commands.push_back(fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, i, 0, queue));
    }
  }
  fixture.thread->run([] {});
  CHECK(fixture.task(ScsiTask::kLunReset) == kScsiFunctionComplete);
  fixture.thread->run([&] { fixture.disk->release(); });
  for (size_t i = 0; i < kEach; ++i) {
    fixture.driver->queue(kRequests).wait_used();
    fixture.driver->queue(kRequests + 1).wait_used();
  }
  size_t reset = 0;
  for (const Command& command : commands) reset += command.code() == kScsiReset ? 1 : 0;
  CHECK(reset == VirtioScsi::kSlots);
}

TEST_CASE("virtio-scsi: a task is aborted before its abort completes") {
  Fixture fixture;
  fixture.start();
  fixture.keep();
  const Command first = fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  const Command second = fixture.send({0x2a, 0, 0, 0, 0, 1, 0, 0, 1}, 512, 0, 2);
  CHECK(fixture.task(ScsiTask::kQueryTask, 1) == kScsiFunctionSucceeded);
  CHECK(fixture.task(ScsiTask::kQueryTask, 9) == kScsiFunctionComplete);
  CHECK(fixture.task(ScsiTask::kQueryTaskSet) == kScsiFunctionSucceeded);
  // At the medium: it ends first.
  const GuestBuffer answer = fixture.send_task(ScsiTask::kAbortTask, 1, address_of(kTarget));
  fixture.thread->run([] {});
  CHECK(answer.all(0xcc));
  fixture.let_go();
  fixture.driver->queue(0).wait_used();
  CHECK(answer.byte() == kScsiFunctionComplete);
  fixture.driver->queue(kRequests).wait_used();
  fixture.driver->queue(kRequests).wait_used();
  CHECK(first.code() == kScsiAborted);
  CHECK(second.code() == kScsiOk);
  CHECK(fixture.task(ScsiTask::kAbortTaskSet) == kScsiFunctionComplete);
}

TEST_CASE("virtio-scsi: what waits for the disk is aborted at once; a reset is told") {
  Fixture fixture;
  fixture.start();
  fixture.thread->run([&] { fixture.disk->hold(kForever, [](Result<>) {}); });
  const Command parked = fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1, 0x11);
  fixture.thread->run([] {});
  CHECK(fixture.task(ScsiTask::kLunReset) == kScsiFunctionComplete);
  fixture.driver->queue(kRequests).wait_used();
  CHECK(parked.code() == kScsiReset);
  fixture.thread->run([&] { fixture.disk->release(); });
  CHECK(fixture.run({0x00}).sense() == sense::kDeviceReset);
  const Command read = fixture.run({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 512);
  CHECK(read.data.all(0));
}

TEST_CASE("virtio-scsi: task requests for nobody, or that nobody knows, are refused") {
  Fixture fixture;
  fixture.start();
  CHECK(fixture.task(ScsiTask::kAbortTask, 0, address_of(9)) == kScsiBadTarget);
  CHECK(fixture.task(ScsiTask::kAbortTask, 0, {1, kTarget, 0x40, 7}) == kScsiIncorrectLun);
  CHECK(fixture.task(ScsiTask::kClearAca) == kScsiFunctionRejected);
  CHECK(fixture.task(static_cast<ScsiTask>(77)) == kScsiFunctionRejected);
  CHECK(fixture.task(ScsiTask::kNexusReset, 0, {1, kTarget, 0x40, 7}) == kScsiFunctionComplete);
  FakeQueue& queue = fixture.driver->queue(0);
  const GuestBuffer unknown = fixture.guest.allocate(24);
  unknown.host[0] = std::byte{99};
  const GuestBuffer response = fixture.guest.allocate(5);
  queue.chain().readable(unknown).writable(response).send();
  CHECK(queue.wait_used().length == 0);
  queue.chain().readable(unknown.part(4, 20)).writable(response).send();
  CHECK(queue.wait_used().length == 0);
  unknown.host[0] = std::byte{1};  // AN_QUERY
  response.fill(0xcc);
  queue.chain().readable(unknown).writable(response).send();
  CHECK(queue.wait_used().length == 5);
  CHECK(response.all(0));
}

TEST_CASE("virtio-scsi: a new capacity is an event, and missed ones are told of") {
  Fixture fixture;
  fixture.start();
  FakeQueue& events = fixture.driver->queue(1);
  const auto grow = [&] {
    fixture.thread->run([&] {
      fixture.device->grown_bytes = fixture.device->info().size_bytes + 512;
      static_cast<void>(fixture.disk->reread_size());
    });
  };
  const GuestBuffer buffer = fixture.guest.allocate(16);
  grow();
  events.chain().writable(buffer).send();
  CHECK(events.wait_used().length == 16);
  CHECK(load_le<uint32_t>(buffer.host) == 3);
  CHECK(buffer.byte(5) == kTarget);
  CHECK(buffer.part(6, 6).all(0));  // Linux looks for the unit by what is here
  CHECK(load_le<uint32_t>(buffer.host + 12) == 0x092a);
  CHECK(fixture.run({0x00}).sense() == sense::kCapacityChanged);
  CHECK(load_be<uint32_t>(fixture.run({0x25}, 0, 8).data.host) == kBlocks);

  for (size_t i = 0; i < VirtioScsi::kMaxEvents + 1; ++i) grow();
  events.chain().writable(buffer).send();
  events.wait_used();
  CHECK(load_le<uint32_t>(buffer.host) == (0x80000000U | 3U));
}

TEST_CASE("virtio-scsi: a reset waits for what is at the medium, and starts anew") {
  Fixture fixture;
  fixture.start();
  fixture.keep();
  const Command write = fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  fixture.let_go_when_unwanted();
  fixture.driver->reset();
  CHECK(write.response.all(0xcc));
  fixture.thread->run([&] { CHECK(fixture.disk->in_flight() == 0); });
  REQUIRE(fixture.driver->start().ok());
  CHECK(fixture.run({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 512).sense() == sense::kDeviceReset);
  CHECK(fixture.run({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 512).status() == 0);
  // And with a task request that waits for it.
  fixture.keep();
  fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  fixture.send_task(ScsiTask::kLunReset, 0, address_of(kTarget));
  fixture.let_go_when_unwanted();
  fixture.driver->reset();
  fixture.thread->run([&] { CHECK(fixture.disk->in_flight() == 0); });
}

TEST_CASE("virtio-scsi: under `pause` a reset takes a failed request back") {
  Fixture fixture(ErrorPolicy::kPause);
  fixture.start();
  fixture.thread->run([&] { fixture.device->error = EIO; });
  const Command kept = fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  fixture.thread->run([] {});
  fixture.thread->run([] {});
  fixture.thread->run([&] { CHECK(fixture.disk->stopped()); });
  CHECK(fixture.task(ScsiTask::kAbortTask, 1) == kScsiFunctionComplete);
  fixture.driver->queue(kRequests).wait_used();
  CHECK(kept.code() == kScsiAborted);
  fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 2);
  fixture.driver->reset();
}

// A second logical unit, over memory.
struct SecondLun {
  explicit SecondLun(IoThread& thread)
      : disk({.id = "second"}, std::make_unique<MemDevice>(info(), thread), thread),
        lun(disk, {.vendor = "PLUMB", .product = "VIRTUAL DISK", .revision = "1"}) {}
  static BlockInfo info() {
    BlockInfo info;
    info.size_bytes = 2 * kBlocks * 512;
    return info;
  }
  Disk disk;
  ScsiDisk lun;
};

// The next event: which, of which target, and why.
struct SeenEvent {
  uint32_t event = 0;
  unsigned target = 0;
  uint32_t reason = 0;
  bool operator==(const SeenEvent&) const = default;
};
SeenEvent next_event(Fixture& fixture) {
  const GuestBuffer buffer = fixture.guest.allocate(16);
  fixture.driver->queue(1).chain().writable(buffer).send();
  CHECK(fixture.driver->queue(1).wait_used().length == 16);
  CHECK(buffer.part(6, 6).all(0));
  return {load_le<uint32_t>(buffer.host), static_cast<unsigned>(buffer.host[5]),
          load_le<uint32_t>(buffer.host + 12)};
}

uint8_t test_unit_ready(Fixture& fixture, uint8_t target) {
  const Command command = fixture.make({0x00}, address_of(target), 7);
  fixture.driver->queue(kRequests)
      .chain()
      .readable(command.header)
      .writable(command.response)
      .send();
  fixture.driver->queue(kRequests).wait_used();
  return command.code();
}

TEST_CASE("virtio-scsi: a target that comes later is told of and works; gone, it can come again") {
  Fixture fixture;
  fixture.start();
  for (int round = 0; round < 3; ++round) {
    CHECK(test_unit_ready(fixture, 9) == kScsiBadTarget);
    SecondLun second(*fixture.thread);
    fixture.scsi->add_target(9, second.lun);
    CHECK(next_event(fixture) == SeenEvent{1, 9, 1});
    CHECK(test_unit_ready(fixture, 9) == kScsiOk);
    fixture.scsi->announce_removal(9);
    CHECK(next_event(fixture) == SeenEvent{1, 9, 2});
    CHECK(test_unit_ready(fixture, 9) == kScsiOk);
    CHECK(fixture.scsi->use_of(9).commands == 2);
    CHECK(fixture.scsi->use_of(9).in_flight == 0);
    std::binary_semaphore removed(0);
    fixture.scsi->remove_target(9, [&] { removed.release(); });
    removed.acquire();
    CHECK(test_unit_ready(fixture, 9) == kScsiBadTarget);
    CHECK(fixture.task(ScsiTask::kLunReset, 0, address_of(9)) == kScsiBadTarget);
  }
  CHECK(fixture.run({0x00}).status() == 0);  // the other target is as it was
}

TEST_CASE("virtio-scsi: without HOTPLUG nothing is told, and targets come and go all the same") {
  Fixture fixture;
  REQUIRE(fixture.driver->start(kVirtioFVersion1).ok());
  SecondLun second(*fixture.thread);
  fixture.scsi->add_target(9, second.lun);
  fixture.scsi->announce_removal(9);
  const GuestBuffer buffer = fixture.guest.allocate(16);
  fixture.driver->queue(1).chain().writable(buffer).send();
  CHECK(test_unit_ready(fixture, 9) == kScsiOk);
  CHECK_FALSE(fixture.driver->queue(1).next_used());
  std::binary_semaphore removed(0);
  fixture.scsi->remove_target(9, [&] { removed.release(); });
  removed.acquire();
}

TEST_CASE("virtio-scsi: a target is gone once what is at its medium has ended") {
  Fixture fixture;
  fixture.start();
  fixture.keep();
  const Command at_medium = fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  fixture.thread->run([&] { fixture.disk->hold(kForever, [](Result<>) {}); });
  const Command parked = fixture.send({0x2a, 0, 0, 0, 0, 1, 0, 0, 1}, 512, 0, 2);
  fixture.thread->run([] {});
  CHECK(fixture.scsi->use_of(kTarget).in_flight == 2);
  const GuestBuffer answer = fixture.send_task(ScsiTask::kLunReset, 0, address_of(kTarget));
  fixture.driver->queue(kRequests).wait_used();
  CHECK(parked.code() == kScsiReset);
  std::binary_semaphore removed(0);
  fixture.scsi->remove_target(kTarget, [&] { removed.release(); });
  CHECK(test_unit_ready(fixture, kTarget) == kScsiBadTarget);
  CHECK_FALSE(removed.try_acquire());
  CHECK(at_medium.response.all(0xcc));
  fixture.let_go();
  fixture.driver->queue(kRequests).wait_used();
  removed.acquire();
  fixture.driver->queue(0).wait_used();
  CHECK(answer.byte() == kScsiFunctionComplete);
  fixture.thread->run([&] { fixture.disk->release(); });
}

TEST_CASE("virtio-scsi: removal takes back what waits, and a reset meanwhile ends it") {
  Fixture fixture;
  fixture.start();
  fixture.thread->run([&] { fixture.disk->hold(kForever, [](Result<>) {}); });
  const Command parked = fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  fixture.thread->run([] {});
  std::binary_semaphore removed(0);
  fixture.scsi->remove_target(kTarget, [&] { removed.release(); });
  fixture.driver->queue(kRequests).wait_used();
  CHECK(parked.code() == kScsiBadTarget);
  removed.acquire();
  fixture.scsi->add_target(kTarget, *fixture.lun);
  fixture.thread->run([&] { fixture.disk->release(); });
  fixture.keep();
  fixture.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0, 1);
  fixture.thread->run([] {});
  fixture.scsi->remove_target(kTarget, [&] { removed.release(); });
  fixture.let_go_when_unwanted();
  fixture.driver->reset();
  removed.acquire();
  REQUIRE(fixture.driver->start().ok());
  CHECK(test_unit_ready(fixture, kTarget) == kScsiBadTarget);
}

}  // namespace plumb
