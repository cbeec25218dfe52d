#include "vmm/pci/msix.h"

#include <catch2/catch.hpp>
#include <thread>

#include "base/endian.h"
#include "tests/fakes/fake_events.h"

using namespace plumb;

namespace {

struct Table {
  FakeEvents events;
  MsixTable msix{events, 3};

  uint32_t read(uint64_t offset) {
    std::byte data[4];
    msix.read_table(offset, data);
    return load_le<uint32_t>(data);
  }
  void write(uint64_t offset, uint32_t value) {
    std::byte data[4];
    store_le(data, value);
    msix.write_table(offset, data);
  }
  void set_vector(unsigned vector, uint32_t data) {
    write(vector * 16, 0xfee00000);
    write(vector * 16 + 4, 0);
    write(vector * 16 + 8, data);
  }
  void mask(unsigned vector, bool masked) { write(vector * 16 + 12, masked ? 1 : 0); }
  uint64_t pending() {
    std::byte data[8];
    msix.read_pending(0, data);
    return load_le<uint64_t>(data);
  }
};

}  // namespace

TEST_CASE("after power-on every vector is masked and MSI-X is off") {
  Table table;
  CHECK(table.read(12) == 1);
  CHECK(table.read(44) == 1);
  table.msix.signal(0);
  CHECK(table.pending() == 0);
  CHECK(table.events.routes.empty());
}

TEST_CASE("an unmasked vector interrupts with what its entry says") {
  Table table;
  table.msix.set_control(kMsixEnable);
  table.set_vector(1, 0x41);
  CHECK(table.events.routes.empty());  // nothing is routed before it is unmasked
  table.mask(1, false);
  REQUIRE(table.events.routes.size() == 1);
  CHECK(table.events.routes[0].message == MsiMessage{0xfee00000, 0x41});
  table.msix.signal(1);
  CHECK(table.events.take_signals(0) == 1);
  table.msix.signal(0);
  CHECK(table.events.take_signals(0) == 0);
}

TEST_CASE("a signal while masked is pending, and comes once when unmasked") {
  Table table;
  table.msix.set_control(kMsixEnable);
  table.set_vector(0, 0x41);
  table.mask(0, false);
  table.mask(0, true);
  table.msix.signal(0);
  table.msix.signal(0);
  CHECK(table.events.take_signals(0) == 0);
  CHECK(table.pending() == 1);
  table.mask(0, false);
  CHECK(table.events.take_signals(0) == 1);
  CHECK(table.pending() == 0);
}

TEST_CASE("the function mask masks all vectors") {
  Table table;
  table.msix.set_control(kMsixEnable | kMsixMaskAll);
  table.set_vector(0, 0x41);
  table.mask(0, false);
  table.msix.signal(0);
  CHECK(table.pending() == 1);
  table.msix.set_control(kMsixEnable);
  CHECK(table.events.take_signals(0) == 1);
}

TEST_CASE("turning MSI-X off forgets what is pending and drops what comes") {
  Table table;
  table.msix.set_control(kMsixEnable);
  table.set_vector(0, 0x41);
  table.msix.signal(0);
  CHECK(table.pending() == 1);
  table.msix.set_control(0);
  CHECK(table.pending() == 0);
  table.msix.signal(0);
  CHECK(table.pending() == 0);
}

TEST_CASE("a vector is routed again only when its message has changed") {
  Table table;
  table.msix.set_control(kMsixEnable);
  table.set_vector(0, 0x41);
  table.mask(0, false);
  CHECK(table.events.changes == 1);
  table.mask(0, true);
  table.mask(0, false);
  CHECK(table.events.changes == 1);
  table.mask(0, true);
  table.set_vector(0, 0x42);
  table.mask(0, false);
  CHECK(table.events.changes == 2);
  CHECK(table.events.routes.size() == 1);
  CHECK(table.events.routes[0].message.data == 0x42);
}

TEST_CASE("a message may change while its vector is unmasked") {
  Table table;
  table.msix.set_control(kMsixEnable);
  table.set_vector(0, 0x41);
  table.mask(0, false);
  table.write(8, 0x55);
  CHECK(table.events.routes[0].message.data == 0x55);
}

TEST_CASE("CH #8138: vectors beyond the table do nothing") {
  Table table;
  table.msix.set_control(kMsixEnable);
  for (const uint16_t vector : std::vector<uint16_t>{3, 64, 2048, 0xffff})
    table.msix.signal(vector);
  table.write(48, 0xffffffff);
  table.write(0xffff0, 0xffffffff);
  CHECK(table.read(48) == 0);
  CHECK(table.pending() == 0);
}

TEST_CASE(
    "CH #8131: accesses of odd width or alignment change nothing, and reads of any width work") {
  Table table;
  table.set_vector(0, 0x11223344);
  std::byte ones[8];
  std::fill_n(ones, 8, std::byte{0xff});
  for (const size_t width : {1U, 2U, 3U, 5U, 6U, 7U}) table.msix.write_table(8, {ones, width});
  table.msix.write_table(6, {ones, 4});
  table.msix.write_table(4, {ones, 8});
  CHECK(table.read(0) == 0xfee00000);
  CHECK(table.read(8) == 0x11223344);
  std::byte two[2];
  table.msix.read_table(9, two);
  CHECK(load_le<uint16_t>(two) == 0x2233);
  std::byte across[8];
  table.msix.read_table(44, across);
  CHECK(load_le<uint64_t>(across) == 1);
}

TEST_CASE("a qword sets two words at once") {
  Table table;
  std::byte data[8];
  store_le<uint64_t>(data, 0x1'fee01000);
  table.msix.write_table(16, data);
  CHECK(table.read(16) == 0xfee01000);
  CHECK(table.read(20) == 1);
}

TEST_CASE("when the host refuses a route the vector stays masked, and its signal is kept") {
  Table table;
  table.events.refuse = true;
  table.msix.set_control(kMsixEnable);
  table.set_vector(0, 0x41);
  table.mask(0, false);
  table.msix.signal(0);
  CHECK(table.pending() == 1);
  table.events.refuse = false;
  table.mask(0, false);
  CHECK(table.events.take_signals(0) == 1);
}

TEST_CASE("no signal is lost between masking and unmasking threads") {
  Table table;
  table.msix.set_control(kMsixEnable);
  table.set_vector(0, 0x41);
  table.mask(0, false);
  constexpr int kSignals = 20000;
  std::thread device([&] {
    for (int i = 0; i < kSignals; ++i) table.msix.signal(0);
  });
  for (int i = 0; i < 2000; ++i) {
    table.mask(0, true);
    table.mask(0, false);
  }
  device.join();
  CHECK(table.pending() == 0);
  // Signals while masked count as one, so the sum is not known, but the last has come.
  CHECK(table.events.take_signals(0) > 0);
}
