#include "vmm/virtio/net.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "base/endian.h"
#include "tests/fakes/fake_driver.h"

namespace plumb {
namespace {

constexpr uint64_t kMergeBuffers = 1ULL << 15U;
constexpr size_t kHeader = VirtioNet::kHeaderBytes;

// A network device whose tap is a pair of sockets that keep frames whole.
struct Fixture {
  Fixture() {
    int ends[2];
    ENSURE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    ENSURE(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    wire = UniqueFd(ends[1]);
    net = std::make_unique<VirtioNet>(UniqueFd(ends[0]),
                                      MacAddress{0x52, 0x54, 0, 0x12, 0x34, 0x56}, *thread);
    driver = std::make_unique<FakeDriver>(guest, *net);
  }
  void send(std::string_view text) const {
    std::string frame(kHeader, '\0');
    frame += text;
    ENSURE(::send(wire.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
  }
  std::string next_on_wire() const {
    std::string frame(70'000, '\0');
    const ssize_t got = ::recv(wire.get(), frame.data(), frame.size(), 0);
    ENSURE(got >= 0);
    frame.resize(static_cast<size_t>(got));
    return frame;
  }

  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  FakeGuest guest;
  UniqueFd wire;
  std::unique_ptr<VirtioNet> net;
  std::unique_ptr<FakeDriver> driver;
};

std::string mac_error(std::string_view text) {
  Result<MacAddress> mac = parse_mac(text);
  return mac.ok() ? "" : mac.error().message;
}

}  // namespace

TEST_CASE("MAC addresses are read, and bad ones refused") {
  CHECK(parse_mac("52:54:00:aB:34:5f").value() == MacAddress{0x52, 0x54, 0, 0xab, 0x34, 0x5f});
  for (const char* bad : {"", "52:54:00:12:34", "52:54:00:12:34:5", "52-54-00-12-34-56",
                          "52:54:00:12:34:5g", "52:54:00:12:34:56:78"}) {
    CHECK(mac_error(bad).find("is not of the form") != std::string::npos);
  }
  CHECK(mac_error("01:00:5e:00:00:01").find("group") != std::string::npos);
  CHECK(mac_error("00:00:00:00:00:00").find("no address") != std::string::npos);
}

TEST_CASE("a tap interface that is not there is refused, not made") {
  Result<UniqueFd> opened = open_tap("plumb-no-such");
  REQUIRE(!opened.ok());
  CHECK(opened.error().message.find("tap interface plumb-no-such does not exist") == 0);
  CHECK(!open_tap("a-name-that-is-too-long").ok());
  CHECK(!open_tap("lo").ok());
}

TEST_CASE("the MAC address is in the configuration space") {
  Fixture fixture;
  CHECK(fixture.driver->config<uint64_t>(0) == 0x5634'1200'5452ULL);
  CHECK((fixture.net->features() & kMergeBuffers) != 0);
}

TEST_CASE("frames of the guest reach the wire with their header, from any framing") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  const GuestBuffer header = fixture.guest.allocate(kHeader);
  FakeQueue& queue = fixture.driver->queue(1);
  queue.chain()
      .readable(header)
      .readable(fixture.guest.text("part one, "))
      .readable(fixture.guest.text("part two"))
      .send();
  queue.wait_used();
  CHECK(fixture.next_on_wire() == std::string(kHeader, '\0') + "part one, part two");
  const GuestBuffer whole = fixture.guest.allocate(kHeader + 60'000);
  whole.fill(0x41);
  queue.chain().indirect().readable(whole).send();
  queue.wait_used();
  CHECK(fixture.next_on_wire().size() == kHeader + 60'000);
}

TEST_CASE("frames from the wire fill one buffer, or several merged ones") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue(0);
  const GuestBuffer first = fixture.guest.allocate(kHeader + 4);
  const GuestBuffer second = fixture.guest.allocate(100);
  queue.chain().writable(first).send();
  queue.chain().writable(second).send();
  fixture.send("12345678");
  CHECK(queue.wait_used().length == kHeader + 4);
  CHECK(queue.wait_used().length == 4);
  CHECK(load_le<uint16_t>(first.host + 10) == 2);
  CHECK(std::memcmp(first.host + kHeader, "1234", 4) == 0);
  CHECK(std::memcmp(second.host, "5678", 4) == 0);
}

TEST_CASE("frames wait until the guest has buffers") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue(0);
  for (int i = 0; i < 20; ++i) fixture.send("frame " + std::to_string(i));
  for (int i = 0; i < 20; ++i) {
    const GuestBuffer buffer = fixture.guest.allocate(1600);
    queue.chain().writable(buffer).send();
    const std::string expected = "frame " + std::to_string(i);
    CHECK(queue.wait_used().length == kHeader + expected.size());
    CHECK(std::memcmp(buffer.host + kHeader, expected.data(), expected.size()) == 0);
    CHECK(load_le<uint16_t>(buffer.host + 10) == 1);
  }
}

TEST_CASE("without merged buffers a frame that is too long is dropped, the next one comes") {
  Fixture fixture;
  REQUIRE(fixture.driver->start(~kMergeBuffers).ok());
  FakeQueue& queue = fixture.driver->queue(0);
  for (int i = 0; i < 2; ++i) queue.chain().writable(fixture.guest.allocate(20)).send();
  fixture.send("much too long for it");
  fixture.send("short");
  CHECK(queue.wait_used().length == 0);
  CHECK(queue.wait_used().length == kHeader + 5);
}

TEST_CASE("frames that are no frames are dropped and answered") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue(1);
  const GuestBuffer buffer = fixture.guest.allocate(1U << 17U);
  queue.chain().readable(buffer.part(0, 3)).send();        // half a header
  queue.chain().readable(buffer.part(0, kHeader)).send();  // nothing behind it
  queue.chain().writable(buffer.part(0, 100)).send();      // nothing to send
  queue.chain().readable(buffer).send();                   // longer than any frame
  for (int i = 0; i < 4; ++i) CHECK(queue.wait_used().length == 0);
  queue.chain().readable(buffer.part(0, kHeader + 4)).send();
  queue.wait_used();
  CHECK(fixture.next_on_wire().size() == kHeader + 4);
}

TEST_CASE("buffers without room, more than a frame may take, are given back") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  FakeQueue& queue = fixture.driver->queue(0);
  const GuestBuffer one = fixture.guest.allocate(1);
  for (int i = 0; i < 80; ++i) queue.chain().writable(one).add_available();
  queue.publish();
  queue.kick();
  fixture.send(std::string(100, 'x'));
  for (int i = 0; i < 64; ++i) CHECK(queue.wait_used().length == 0);
}

TEST_CASE("a wire that is cut does not spin, and the device can be reset") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  fixture.wire.reset();
  fixture.thread->run([] {});
  fixture.thread->run([] {});
  fixture.driver->queue(0).chain().writable(fixture.guest.allocate(100)).send();
  fixture.driver->queue(1).chain().readable(fixture.guest.allocate(100)).send();
  fixture.driver->queue(1).wait_used();
  fixture.driver->reset();
}

TEST_CASE("a reset with a frame half placed gives its buffers up") {
  Fixture fixture;
  REQUIRE(fixture.driver->start().ok());
  fixture.driver->queue(0).chain().writable(fixture.guest.allocate(20)).send();
  fixture.send("longer than twenty bytes together");
  for (int i = 0; i < 4; ++i) fixture.thread->run([] {});
  fixture.driver->reset();
  CHECK(fixture.driver->queue(0).used_index() == 0);
  REQUIRE(fixture.driver->start().ok());
  fixture.driver->queue(0).chain().writable(fixture.guest.allocate(100)).send();
  fixture.send("fresh");
  CHECK(fixture.driver->queue(0).wait_used().length == kHeader + 5);
}

}  // namespace plumb
