#include "vmm/serial.h"

#include <catch2/catch.hpp>
#include <string>

using namespace plumb;

namespace {

// Takes what it has room for.
class Terminal : public CharBackend {
 public:
  size_t write(std::span<const std::byte> data) override {
    const size_t taken = std::min(data.size(), room);
    for (const std::byte byte : data.first(taken)) text += static_cast<char>(byte);
    room -= taken;
    return taken;
  }
  void frontend_ready() override { ++ready_calls; }
  void attach(CharFrontend* frontend) override { attached = frontend; }

  std::string text;
  size_t room = 1U << 20U;
  int ready_calls = 0;
  CharFrontend* attached = nullptr;
};

struct Port {
  Terminal terminal;
  int interrupts = 0;
  Serial serial{&terminal, [this] { ++interrupts; }};

  uint8_t in(uint64_t offset) {
    std::byte data{};
    serial.read(offset, {&data, 1});
    return static_cast<uint8_t>(data);
  }
  void out(uint64_t offset, uint8_t value) {
    const std::byte data{value};
    serial.write(offset, {&data, 1});
  }
  void out_text(std::string_view text) {
    for (const char c : text) out(0, static_cast<uint8_t>(c));
  }
  size_t type(std::string_view text) {
    return serial.receive(std::as_bytes(std::span(text.data(), text.size())));
  }
  // As Linux does: FIFOs on, OUT2 connects the interrupt line.
  void start(uint8_t interrupt_enable) {
    out(2, 0x01);
    out(4, 0x0b);
    out(1, interrupt_enable);
  }
};

}  // namespace

TEST_CASE("what the guest writes goes out in order, and the transmitter is empty again") {
  Port port;
  port.out_text("hello");
  CHECK(port.terminal.text == "hello");
  CHECK((port.in(5) & 0x60) == 0x60);
}

TEST_CASE("the divisor latch hides data and interrupt enable, and is kept") {
  Port port;
  port.out(3, 0x83);
  port.out(0, 0x01);
  port.out(1, 0x02);
  CHECK(port.in(0) == 0x01);
  CHECK(port.in(1) == 0x02);
  CHECK(port.terminal.text.empty());
  port.out(3, 0x03);
  CHECK(port.in(1) == 0);
  CHECK(port.in(3) == 0x03);
}

TEST_CASE("a 16550A is recognised: scratch, FIFO bits, loop-back of the modem lines") {
  Port port;
  port.out(7, 0x5a);
  CHECK(port.in(7) == 0x5a);
  CHECK((port.in(2) & 0xc0) == 0);
  port.out(2, 0x01);
  CHECK((port.in(2) & 0xc0) == 0xc0);
  port.out(4, 0x1a);  // loop-back, RTS, OUT2: what Linux writes to find the chip
  CHECK((port.in(6) & 0xf0) == 0x90);
  port.out(4, 0x10);
  CHECK((port.in(6) & 0xf0) == 0x00);
  port.out(4, 0x00);
  CHECK((port.in(6) & 0xf0) == 0xb0);
}

TEST_CASE("in loop-back the guest reads what it writes, and the world sees nothing") {
  Port port;
  port.out(2, 0x01);
  port.out(4, 0x10);
  port.out_text("abc");
  CHECK(port.terminal.text.empty());
  CHECK(port.in(0) == 'a');
  CHECK(port.in(0) == 'b');
  CHECK(port.in(0) == 'c');
  CHECK((port.in(5) & 1) == 0);
  CHECK(port.type("x") == 0);
  for (int i = 0; i < 17; ++i) port.out(0, 'z');
  CHECK((port.in(5) & 2) == 2);  // overrun, which reading clears
  CHECK((port.in(5) & 2) == 0);
}

TEST_CASE("enabling the transmitter interrupt while it is empty raises it at once") {
  Port port;
  port.start(0);
  CHECK(port.interrupts == 0);
  port.out(1, 0x02);
  CHECK(port.interrupts == 1);
  CHECK((port.in(2) & 0x0f) == 0x02);
  CHECK((port.in(2) & 0x0f) == 0x01);  // reading it acknowledged it
  port.out(0, 'x');
  CHECK(port.interrupts == 2);
}

TEST_CASE("received characters raise one interrupt until the guest has read them") {
  Port port;
  port.start(0x01);
  CHECK(port.type("ab") == 2);
  CHECK(port.interrupts == 1);
  CHECK(port.type("c") == 1);
  CHECK(port.interrupts == 1);  // the line is still up
  CHECK((port.in(2) & 0x0f) == 0x04);
  CHECK(port.in(0) == 'a');
  CHECK(port.in(0) == 'b');
  CHECK(port.in(0) == 'c');
  CHECK((port.in(2) & 0x0f) == 0x01);
  CHECK(port.type("d") == 1);
  CHECK(port.interrupts == 2);
}

TEST_CASE("below the FIFO's trigger the time-out interrupt comes") {
  Port port;
  port.start(0x01);
  port.out(2, 0x81);  // trigger at 8
  port.type("1234567");
  CHECK((port.in(2) & 0x0f) == 0x0c);
  port.type("8");
  CHECK((port.in(2) & 0x0f) == 0x04);
}

TEST_CASE("no interrupt leaves the chip while OUT2 is off") {
  Port port;
  port.out(1, 0x03);
  port.type("x");
  CHECK(port.interrupts == 0);
  port.out(4, 0x08);
  CHECK(port.interrupts == 1);
}

TEST_CASE("a full receiver takes no more, and says when it can") {
  Port port;
  port.start(0x01);
  CHECK(port.type("0123456789abcdefXYZ") == 16);
  CHECK(port.type("X") == 0);
  for (int i = 0; i < 15; ++i) port.in(0);
  CHECK(port.terminal.ready_calls == 0);
  port.in(0);
  CHECK(port.terminal.ready_calls == 1);
  CHECK(port.type("X") == 1);
  CHECK((port.in(5) & 2) == 0);  // nothing was lost
}

TEST_CASE("without FIFOs one character fits") {
  Port port;
  CHECK(port.type("ab") == 1);
  CHECK(port.in(0) == 'a');
  CHECK(port.terminal.ready_calls == 1);
}

TEST_CASE("while the backend takes nothing the transmitter is full, and nothing is lost in order") {
  Port port;
  port.start(0x02);
  const int before = port.interrupts;
  port.terminal.room = 2;
  port.out_text("abcd");
  CHECK(port.terminal.text == "ab");
  CHECK((port.in(5) & 0x60) == 0);
  CHECK(port.interrupts == before + 2);  // for "a" and "b"; then the line fell with "c"
  port.terminal.room = 100;
  port.serial.backend_ready();
  CHECK(port.terminal.text == "abcd");
  CHECK((port.in(5) & 0x60) == 0x60);
  CHECK((port.in(2) & 0x0f) == 0x02);
}

TEST_CASE("a guest that floods a backend that takes nothing costs no memory") {
  Port port;
  port.terminal.room = 0;
  for (int i = 0; i < 100000; ++i) port.out(0, 'f');
  port.terminal.room = 1000;
  port.serial.backend_ready();
  CHECK(port.terminal.text == std::string(16, 'f'));
}

TEST_CASE("without a backend output vanishes and the transmitter stays empty") {
  int interrupts = 0;
  Serial serial(nullptr, [&interrupts] { ++interrupts; });
  const std::byte x{'x'};
  serial.write(0, {&x, 1});
  std::byte status{};
  serial.read(5, {&status, 1});
  CHECK((status & std::byte{0x60}) == std::byte{0x60});
}

TEST_CASE("the backend is told when the UART goes") {
  Terminal terminal;
  {
    const Serial serial(&terminal, [] {});
    CHECK(terminal.attached != nullptr);
  }
  CHECK(terminal.attached == nullptr);
}
