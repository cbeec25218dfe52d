#include "vmm/rtc.h"

#include "base/size.h"
#include "vmm/guest_memory.h"

namespace plumb {
namespace {

constexpr uint8_t kSeconds = 0x0;
constexpr uint8_t kMinutes = 0x2;
constexpr uint8_t kHours = 0x4;
constexpr uint8_t kWeekday = 0x6;
constexpr uint8_t kDay = 0x7;
constexpr uint8_t kMonth = 0x8;
constexpr uint8_t kYear = 0x9;
constexpr uint8_t kStatusA = 0xa;
constexpr uint8_t kStatusB = 0xb;
constexpr uint8_t kStatusC = 0xc;
constexpr uint8_t kStatusD = 0xd;
constexpr uint8_t kCentury = 0x32;  // the FADT says so

constexpr uint8_t kSet = 0x80;  // of status B: the guest is writing the time
constexpr uint8_t kBinary = 0x04;
constexpr uint8_t k24Hours = 0x02;

bool is_time(uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours || index == kCentury ||
         (index >= kWeekday && index <= kYear);
}

uint16_t saturate16(uint64_t value) {
  return static_cast<uint16_t>(std::min<uint64_t>(value, 0xffff));
}

}  // namespace

Rtc::Rtc(Config config) : config_(std::move(config)) {
  cells_[kStatusA] = 0x26;  // 32.768 kHz, divider running
  cells_[kStatusB] = k24Hours;
  cells_[kStatusD] = 0x80;  // the battery is good
  // Where PC firmware keeps memory sizes; SeaBIOS and OVMF read them.
  const uint64_t low = std::min(config_.memory_bytes, GuestMemory::kHoleStart);
  const uint64_t above_4g = config_.memory_bytes - low;
  const uint64_t above_1m = low > kMiB ? low - kMiB : 0;
  const uint64_t above_16m = low > 16 * kMiB ? low - 16 * kMiB : 0;
  store_le<uint16_t>(&cells_[0x15], 640);
  store_le<uint16_t>(&cells_[0x17], saturate16(above_1m / kKiB));
  store_le<uint16_t>(&cells_[0x30], saturate16(above_1m / kKiB));
  store_le<uint16_t>(&cells_[0x34], saturate16(above_16m / (64 * kKiB)));
  store_le<uint16_t>(&cells_[0x5b], static_cast<uint16_t>((above_4g / (64 * kKiB)) & 0xffffU));
  cells_[0x5d] = static_cast<uint8_t>(above_4g >> 32U);
  cells_[0x5f] = static_cast<uint8_t>(config_.vcpus - 1);
}

void Rtc::read(uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  data[0] = std::byte{offset == 0 ? index_ : read_cell(index_)};
}

void Rtc::write(uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  const auto value = static_cast<uint8_t>(data[0]);
  if (offset == 0) {
    index_ = value & 0x7fU;  // bit 7 masks NMI on real chipsets
  } else {
    write_cell(index_, value);
  }
}

uint8_t Rtc::read_cell(uint8_t index) {
  if (is_time(index) && (cells_[kStatusB] & kSet) == 0) latch_time();
  if (index == kStatusC) return 0;  // no interrupt is ever pending
  return cells_[index];
}

void Rtc::write_cell(uint8_t index, uint8_t value) {
  if (index == kStatusC || index == kStatusD) return;
  if (index == kStatusA) value &= 0x7fU;  // "update in progress" is read only, and never seen
  const bool was_setting = (cells_[kStatusB] & kSet) != 0;
  if (index == kStatusB && (value & kSet) != 0 && !was_setting) latch_time();
  const bool time = is_time(index);
  // The guest's time is the host's: what it writes outside a set sequence changes one field of
  // the time as it is now.
  if (time && !was_setting) latch_time();
  cells_[index] = value;
  const bool set_ended = index == kStatusB && was_setting && (value & kSet) == 0;
  if (set_ended || (time && !was_setting)) set_time();
}

// The time now, into the cells, in the format that status B asks for.
void Rtc::latch_time() {
  const time_t now = config_.now() + offset_seconds_;
  tm parts{};
  ::gmtime_r(&now, &parts);
  cells_[kSeconds] = encode(parts.tm_sec);
  cells_[kMinutes] = encode(parts.tm_min);
  if ((cells_[kStatusB] & k24Hours) != 0) {
    cells_[kHours] = encode(parts.tm_hour);
  } else {
    const int hour = parts.tm_hour % 12 == 0 ? 12 : parts.tm_hour % 12;
    cells_[kHours] = static_cast<uint8_t>(encode(hour) | (parts.tm_hour >= 12 ? 0x80U : 0U));
  }
  cells_[kWeekday] = encode(parts.tm_wday + 1);
  cells_[kDay] = encode(parts.tm_mday);
  cells_[kMonth] = encode(parts.tm_mon + 1);
  cells_[kYear] = encode(parts.tm_year % 100);
  cells_[kCentury] = encode((parts.tm_year + 1900) / 100);
}

void Rtc::set_time() {
  tm parts{};
  parts.tm_sec = decode(cells_[kSeconds]);
  parts.tm_min = decode(cells_[kMinutes]);
  const uint8_t hours = cells_[kHours];
  parts.tm_hour = (cells_[kStatusB] & k24Hours) != 0
                      ? decode(hours)
                      : decode(hours & 0x7fU) % 12 + ((hours & 0x80U) != 0 ? 12 : 0);
  parts.tm_mday = decode(cells_[kDay]);
  parts.tm_mon = decode(cells_[kMonth]) - 1;
  parts.tm_year = decode(cells_[kCentury]) * 100 + decode(cells_[kYear]) - 1900;
  offset_seconds_ = ::timegm(&parts) - config_.now();
}

uint8_t Rtc::encode(int value) const {
  if ((cells_[kStatusB] & kBinary) != 0) return static_cast<uint8_t>(value);
  return static_cast<uint8_t>((value / 10) * 16 + value % 10);
}

int Rtc::decode(uint8_t value) const {
  if ((cells_[kStatusB] & kBinary) != 0) return value;
  return (value >> 4U) * 10 + (value & 0xfU);
}

}  // namespace plumb
