#include "vmm/rtc.h"

#include <catch2/catch.hpp>

#include "base/size.h"

using namespace plumb;

namespace {

constexpr time_t kNow = 951827696;  // 2000-02-29 12:34:56 UTC, a Tuesday

class Clock {
 public:
  explicit Clock(uint64_t memory_bytes = 256 * kMiB)
      : rtc_({.memory_bytes = memory_bytes, .vcpus = 2, .now = [this] { return now; }}) {}
  uint8_t get(uint8_t index) {
    std::byte data{index};
    rtc_.write(0, {&data, 1});
    rtc_.read(1, {&data, 1});
    return static_cast<uint8_t>(data);
  }
  void set(uint8_t index, uint8_t value) {
    std::byte data{index};
    rtc_.write(0, {&data, 1});
    data = std::byte{value};
    rtc_.write(1, {&data, 1});
  }
  uint64_t get_wide(uint8_t index, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) {
      value |= static_cast<uint64_t>(get(static_cast<uint8_t>(index + i))) << (8 * i);
    }
    return value;
  }
  time_t now = kNow;

 private:
  Rtc rtc_;
};

}  // namespace

TEST_CASE("the clock shows the host's time, in BCD and 24 hours at first") {
  Clock clock;
  CHECK(clock.get(0x0) == 0x56);
  CHECK(clock.get(0x2) == 0x34);
  CHECK(clock.get(0x4) == 0x12);
  CHECK(clock.get(0x6) == 3);
  CHECK(clock.get(0x7) == 0x29);
  CHECK(clock.get(0x8) == 0x02);
  CHECK(clock.get(0x9) == 0x00);
  CHECK(clock.get(0x32) == 0x20);
  CHECK((clock.get(0xa) & 0x80) == 0);  // never in the middle of an update
  CHECK((clock.get(0xd) & 0x80) != 0);
  clock.now += 4;
  CHECK(clock.get(0x0) == 0x00);
  CHECK(clock.get(0x2) == 0x35);
}

TEST_CASE("the clock shows binary and 12 hours when asked") {
  Clock clock;
  clock.set(0xb, 0x04);
  CHECK(clock.get(0x0) == 56);
  CHECK(clock.get(0x4) == (0x80 | 12));
  clock.now += 12 * 3600;
  CHECK(clock.get(0x4) == 12);  // half past midnight
  clock.now += 3600;
  CHECK(clock.get(0x4) == 1);
}

TEST_CASE("a guest sets its own time and leaves the host's alone") {
  Clock clock;
  clock.set(0xb, 0x82);
  clock.set(0x4, 0x23);
  clock.set(0x9, 0x26);
  clock.now += 100;  // no effect while it is being set
  CHECK(clock.get(0x4) == 0x23);
  clock.set(0xb, 0x02);
  CHECK(clock.get(0x4) == 0x23);
  CHECK(clock.get(0x9) == 0x26);
  CHECK(clock.get(0x0) == 0x56);
  clock.now += 1;
  CHECK(clock.get(0x0) == 0x57);
}

TEST_CASE("nonsense written as time harms nothing") {
  Clock clock;
  for (int round = 0; round < 2; ++round) {
    for (uint8_t index = 0; index < 0xa; ++index) clock.set(index, 0xff);
    clock.set(0x32, 0xff);
    for (uint8_t index = 0; index < 0x80; ++index) clock.get(index);
    clock.set(0xb, 0x80);
  }
}

TEST_CASE("CMOS tells firmware the memory sizes") {
  Clock small(64 * kMiB);
  CHECK(small.get_wide(0x15, 2) == 640);
  CHECK(small.get_wide(0x17, 2) == 63 * 1024);
  CHECK(small.get_wide(0x34, 2) == 48 * 16);
  CHECK(small.get_wide(0x5b, 3) == 0);
  CHECK(small.get(0x5f) == 1);
  Clock large(6 * kGiB);
  CHECK(large.get_wide(0x30, 2) == 0xffff);
  CHECK(large.get_wide(0x34, 2) == (3 * kGiB - 16 * kMiB) / (64 * kKiB));
  CHECK(large.get_wide(0x5b, 3) == 3 * kGiB / (64 * kKiB));
}

TEST_CASE("other cells are memory, and status C and D are read only") {
  Clock clock;
  clock.set(0x0f, 0x0a);
  CHECK(clock.get(0x0f) == 0x0a);
  clock.set(0xc, 0xff);
  clock.set(0xd, 0x00);
  CHECK(clock.get(0xc) == 0);
  CHECK(clock.get(0xd) == 0x80);
}
