#include "vmm/virtio/console.h"

#include <catch2/catch.hpp>
#include <mutex>
#include <string>

#include "base/endian.h"
#include "tests/fakes/fake_driver.h"

namespace plumb {
namespace {

constexpr size_t kConsoleIn = 0;
constexpr size_t kConsoleOut = 1;
constexpr size_t kControlIn = 2;
constexpr size_t kControlOut = 3;
constexpr size_t kAgentIn = 4;
constexpr size_t kAgentOut = 5;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// The other end of a port, played by the test.
class FakeBackend final : public CharBackend {
 public:
  size_t write(std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    const size_t count = std::min(data.size(), room_);
    text_.append(reinterpret_cast<const char*>(data.data()), count);
    room_ -= count;
    return count;
  }
  void frontend_ready() override { ready.release(); }
  void attach(CharFrontend* frontend) override { frontend_ = frontend; }

  CharFrontend* frontend() const { return frontend_; }
  std::string text() {
    const std::lock_guard lock(mutex_);
    return text_;
  }
  void set_room(size_t bytes) {
    const std::lock_guard lock(mutex_);
    room_ = bytes;
  }
  std::counting_semaphore<> ready{0};

 private:
  std::mutex mutex_;
  std::string text_;
  size_t room_ = 1U << 20U;
  std::atomic<CharFrontend*> frontend_ = nullptr;
};

struct Fixture {
  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  FakeGuest guest;
  FakeBackend console_end;
  FakeBackend agent_end;
  VirtioConsole console{&console_end, &agent_end, *thread};
  FakeDriver driver{guest, console};

  // Gives the device buffers for control messages; they are filled in this order.
  void give_control_buffers(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      control_buffers.push_back(guest.allocate(64));
      driver.queue(kControlIn).chain().writable(control_buffers.back()).send();
    }
  }
  // "event id value text"
  std::string next_control() {
    const FakeQueue::Used used = driver.queue(kControlIn).wait_used();
    const GuestBuffer& buffer = control_buffers[next_buffer++];
    std::string text = std::to_string(load_le<uint16_t>(buffer.host + 4)) + " " +
                       std::to_string(load_le<uint32_t>(buffer.host)) + " " +
                       std::to_string(load_le<uint16_t>(buffer.host + 6));
    if (used.length > 8) {
      text += " " + std::string(reinterpret_cast<char*>(buffer.host) + 8, used.length - 8);
    }
    return text;
  }
  void tell(uint32_t id, uint16_t event, uint16_t value) {
    const GuestBuffer message = guest.allocate(8);
    store_le<uint32_t>(message.host, id);
    store_le<uint16_t>(message.host + 4, event);
    store_le<uint16_t>(message.host + 6, value);
    driver.queue(kControlOut).chain().readable(message).send();
    driver.queue(kControlOut).wait_used();
  }
  // What a Linux driver does until both ports work.
  void set_up() {
    REQUIRE(driver.start().ok());
    give_control_buffers(16);
    tell(~0U, 0, 1);
    CHECK(next_control() == "1 0 1");
    CHECK(next_control() == "1 1 1");
    tell(0, 3, 1);
    CHECK(next_control() == "4 0 1");
    CHECK(next_control() == "6 0 1");
    tell(0, 6, 1);
    tell(1, 3, 1);
    CHECK(next_control() == "7 1 1 org.qemu.guest_agent.0");
  }
  void print(size_t queue, std::string_view text) {
    driver.queue(queue).chain().readable(guest.text(text)).send();
  }

  std::vector<GuestBuffer> control_buffers;
  size_t next_buffer = 0;
};

}  // namespace

TEST_CASE("ports are announced, named and opened in the protocol's order") {
  Fixture fixture;
  CHECK(fixture.driver.config<uint32_t>(4) == 2);
  CHECK(fixture.console.queue_sizes().size() == 6);
  fixture.set_up();
}

TEST_CASE("a backend's coming and going is told to the guest, for the agent's port") {
  Fixture fixture;
  fixture.set_up();
  fixture.agent_end.frontend()->connection_changed(true);
  CHECK(fixture.next_control() == "6 1 1");
  fixture.agent_end.frontend()->connection_changed(true);  // nothing new
  fixture.agent_end.frontend()->connection_changed(false);
  CHECK(fixture.next_control() == "6 1 0");
}

TEST_CASE("a port that was connected before the guest was ready is told open with its name") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  fixture.agent_end.frontend()->connection_changed(true);
  fixture.give_control_buffers(4);
  fixture.tell(1, 3, 1);
  CHECK(fixture.next_control() == "7 1 1 org.qemu.guest_agent.0");
  CHECK(fixture.next_control() == "6 1 1");
}

TEST_CASE("control messages wait for buffers of the guest") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  fixture.tell(~0U, 0, 1);
  fixture.thread->run([] {});
  CHECK(fixture.driver.queue(kControlIn).used_index() == 0);
  fixture.give_control_buffers(1);
  CHECK(fixture.next_control() == "1 0 1");
  fixture.give_control_buffers(1);
  CHECK(fixture.next_control() == "1 1 1");
}

TEST_CASE("what the guest prints arrives, whole and in order") {
  Fixture fixture;
  fixture.set_up();
  fixture.print(kConsoleOut, "Linux version 6.1\n");
  fixture.print(kAgentOut, "{\"return\": {}}\n");
  fixture.print(kConsoleOut, "Run /init\n");
  fixture.driver.queue(kConsoleOut).wait_used();
  fixture.driver.queue(kConsoleOut).wait_used();
  fixture.driver.queue(kAgentOut).wait_used();
  CHECK(fixture.console_end.text() == "Linux version 6.1\nRun /init\n");
  CHECK(fixture.agent_end.text() == "{\"return\": {}}\n");
}

TEST_CASE("a backend without room stops the port until it has some") {
  Fixture fixture;
  fixture.set_up();
  fixture.console_end.set_room(5);
  fixture.print(kConsoleOut, "hello world");
  fixture.print(kConsoleOut, ", and more");
  fixture.print(kAgentOut, "not held up");
  fixture.driver.queue(kAgentOut).wait_used();
  fixture.thread->run([] {});
  CHECK(fixture.driver.queue(kConsoleOut).used_index() == 0);
  CHECK(fixture.console_end.text() == "hello");
  fixture.console_end.set_room(8);
  fixture.console_end.frontend()->backend_ready();
  fixture.driver.queue(kConsoleOut).wait_used();
  fixture.console_end.set_room(100);
  fixture.console_end.frontend()->backend_ready();
  fixture.driver.queue(kConsoleOut).wait_used();
  CHECK(fixture.console_end.text() == "hello world, and more");
}

TEST_CASE("what is typed reaches the guest as far as it has buffers, and the rest later") {
  Fixture fixture;
  fixture.set_up();
  CharFrontend& port = *fixture.console_end.frontend();
  CHECK(port.receive(bytes_of("lost?")) == 0);
  const GuestBuffer first = fixture.guest.allocate(4);
  fixture.driver.queue(kConsoleIn).chain().writable(first).send();
  fixture.console_end.ready.acquire();
  CHECK(port.receive(bytes_of("lost?")) == 4);
  CHECK(fixture.driver.queue(kConsoleIn).wait_used().length == 4);
  CHECK(std::memcmp(first.host, "lost", 4) == 0);
  const GuestBuffer second = fixture.guest.allocate(64);
  fixture.driver.queue(kConsoleIn).chain().writable(second).send();
  fixture.console_end.ready.acquire();
  CHECK(port.receive(bytes_of("?")) == 1);
  CHECK(fixture.driver.queue(kConsoleIn).wait_used().length == 1);
  CHECK(second.byte() == '?');
}

TEST_CASE("bytes for a port wait until the guest has opened it") {
  Fixture fixture;
  fixture.set_up();
  const GuestBuffer buffer = fixture.guest.allocate(64);
  fixture.driver.queue(kAgentIn).chain().writable(buffer).send();
  CharFrontend& port = *fixture.agent_end.frontend();
  CHECK(port.receive(bytes_of("ping")) == 0);
  fixture.tell(1, 6, 1);
  fixture.agent_end.ready.acquire();
  CHECK(port.receive(bytes_of("ping")) == 4);
  CHECK(fixture.driver.queue(kAgentIn).wait_used().length == 4);
  fixture.tell(1, 6, 0);
  CHECK(port.receive(bytes_of("ping")) == 0);
}

TEST_CASE("without multiport the console works, and no port is announced") {
  Fixture fixture;
  REQUIRE(fixture.driver.start(kVirtioFVersion1).ok());
  fixture.print(kConsoleOut, "hello");
  fixture.driver.queue(kConsoleOut).wait_used();
  CHECK(fixture.console_end.text() == "hello");
  const GuestBuffer buffer = fixture.guest.allocate(64);
  fixture.driver.queue(kConsoleIn).chain().writable(buffer).send();
  // The kick may come before the bytes or after: both ways they get through.
  while (fixture.console_end.frontend()->receive(bytes_of("k")) == 0) {
    fixture.console_end.ready.acquire();
  }
  CHECK(fixture.driver.queue(kConsoleIn).wait_used().length == 1);
}

TEST_CASE("a port without a backend is not announced, and takes no harm") {
  Fixture fixture;
  VirtioConsole console(nullptr, &fixture.agent_end, *fixture.thread);
  FakeDriver driver(fixture.guest, console);
  REQUIRE(driver.start().ok());
  const GuestBuffer buffer = fixture.guest.allocate(64);
  driver.queue(kControlIn).chain().writable(buffer).send();
  const GuestBuffer ready = fixture.guest.place(std::array<uint16_t, 4>{0xffff, 0xffff, 0, 1});
  driver.queue(kControlOut).chain().readable(ready).send();
  driver.queue(kControlIn).wait_used();
  CHECK(load_le<uint32_t>(buffer.host) == 1);  // the agent's
  driver.queue(kConsoleOut).chain().readable(fixture.guest.text("dropped")).send();
  driver.queue(kConsoleOut).wait_used();
  driver.queue(kConsoleIn).chain().writable(fixture.guest.allocate(8)).send();
  fixture.thread->run([] {});
  CHECK(driver.queue(kConsoleIn).used_index() == 0);
}

TEST_CASE("malformed control messages are answered and change nothing") {
  Fixture fixture;
  fixture.set_up();
  fixture.tell(2, 3, 1);
  fixture.tell(0xffffffff, 6, 1);
  fixture.tell(1, 99, 1);
  fixture.tell(1, 3, 0);
  FakeQueue& control = fixture.driver.queue(kControlOut);
  control.chain().readable(fixture.guest.allocate(7)).send();
  control.wait_used();
  control.chain().writable(fixture.guest.allocate(8)).send();
  control.wait_used();
  fixture.agent_end.frontend()->connection_changed(true);
  CHECK(fixture.next_control() == "6 1 1");
}

TEST_CASE("a control buffer that is too short gets what fits") {
  Fixture fixture;
  REQUIRE(fixture.driver.start().ok());
  fixture.driver.queue(kControlIn).chain().writable(fixture.guest.allocate(3)).send();
  fixture.tell(~0U, 0, 1);
  CHECK(fixture.driver.queue(kControlIn).wait_used().length == 3);
}

TEST_CASE("a reset with a half-sent chain leaves nothing behind") {
  Fixture fixture;
  fixture.set_up();
  fixture.console_end.set_room(2);
  fixture.print(kConsoleOut, "hello");
  fixture.thread->run([] {});
  fixture.driver.reset();
  CHECK(fixture.console_end.frontend() == nullptr);
  CHECK(fixture.driver.queue(kConsoleOut).used_index() == 0);
  fixture.console_end.set_room(100);
  fixture.control_buffers.clear();
  fixture.next_buffer = 0;
  fixture.set_up();
  fixture.print(kConsoleOut, "again");
  fixture.driver.queue(kConsoleOut).wait_used();
}

}  // namespace plumb
