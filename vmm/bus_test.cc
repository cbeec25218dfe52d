#include "vmm/bus.h"

#include <catch2/catch.hpp>

using namespace plumb;

namespace {

class Recorder : public BusHandler {
 public:
  void read(uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    data[0] = answer;
  }
  void write(uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    last_write = load_access(data);
  }
  std::byte answer{0x42};
  uint64_t last_offset = ~0ULL;
  uint64_t last_write = 0;
};

uint64_t read(const Bus& bus, uint64_t address, size_t width) {
  std::byte data[8] = {};
  bus.read(address, {data, width});
  return load_access({data, width});
}

void write(const Bus& bus, uint64_t address, uint32_t value) {
  std::byte data[4];
  store_le(data, value);
  bus.write(address, data);
}

}  // namespace

TEST_CASE("an address nobody has reads as all ones, whatever the width") {
  const Bus bus;
  CHECK(read(bus, 0x80, 1) == 0xff);
  CHECK(read(bus, 0x80, 2) == 0xffff);
  CHECK(read(bus, 0x80, 4) == 0xffffffff);
  CHECK(read(bus, ~0ULL, 8) == ~0ULL);
  write(bus, 0x80, 1);
}

TEST_CASE("a handler sees offsets in its range, and only those") {
  Bus bus;
  Recorder recorder;
  bus.add(0x3f8, 8, recorder);
  CHECK(read(bus, 0x3ff, 1) == 0x42);
  CHECK(recorder.last_offset == 7);
  CHECK(read(bus, 0x400, 1) == 0xff);
  CHECK(read(bus, 0x3f7, 1) == 0xff);
  write(bus, 0x3fa, 0x1234);
  CHECK(recorder.last_offset == 2);
  CHECK(recorder.last_write == 0x1234);
}

TEST_CASE("what a handler leaves alone reads as ones") {
  Bus bus;
  Recorder recorder;
  bus.add(0, 8, recorder);
  CHECK(read(bus, 0, 4) == 0xffffff42);
}

TEST_CASE("where ranges overlap the first one added answers") {
  Bus bus;
  Recorder reset;
  Recorder pci;
  pci.answer = std::byte{0x17};
  bus.add(0xcf9, 1, reset);
  bus.add(0xcf8, 8, pci);
  CHECK(read(bus, 0xcf8, 1) == 0x17);
  CHECK(read(bus, 0xcf9, 1) == 0x42);
  CHECK(read(bus, 0xcfa, 1) == 0x17);
}

TEST_CASE("a range at the end of the address space does not wrap") {
  Bus bus;
  Recorder recorder;
  bus.add(~0ULL - 0xfff, 0x1000, recorder);
  CHECK(read(bus, ~0ULL, 1) == 0x42);
  CHECK(recorder.last_offset == 0xfff);
  CHECK(read(bus, 0, 1) == 0xff);
}

TEST_CASE("removing takes only the handler's own range") {
  Bus bus;
  Recorder a;
  Recorder b;
  bus.add(0x1000, 0x100, a);
  bus.add(0x1000, 0x100, b);
  bus.remove(0x1000, b);
  bus.remove(0x2000, a);
  CHECK(read(bus, 0x1000, 1) == 0x42);
  bus.remove(0x1000, a);
  CHECK(read(bus, 0x1000, 1) == 0xff);
}
