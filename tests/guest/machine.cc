#include "tests/guest/machine.h"

namespace {

constexpr uint16_t kSerialPort = 0x3f8;
// PM1 control of a Q35 machine: SLP_EN with the sleep type that plumb's \_S5 names.
constexpr uint16_t kPm1Control = 0x604;
constexpr uint16_t kSleepEnable = 1U << 13U;
constexpr uint16_t kSleepTypeShift = 10;
constexpr uint16_t kSleepTypeS5 = 5;
constexpr uint16_t kDebugExitPort = 0xf4;  // QEMU's isa-debug-exit

// Length of `word` when `text` starts with it, else 0.
size_t prefix(const char* text, const char* word) {
  size_t length = 0;
  for (; word[length] != '\0'; ++length) {
    if (text[length] != word[length]) return 0;
  }
  return length;
}

const char* find(const char* text, const char* word) {
  for (bool at_start = true; *text != '\0'; ++text) {
    if (at_start && prefix(text, word) != 0) return text;
    at_start = *text == ' ';
  }
  return nullptr;
}

}  // namespace

void print(const char* text) {
  for (; *text != '\0'; ++text) out8(kSerialPort, static_cast<uint8_t>(*text));
}

void print_number(uint64_t number) {
  char digits[21];
  size_t at = sizeof(digits) - 1;
  digits[at] = '\0';
  do {
    digits[--at] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  print(digits + at);
}

void power_off() {
  out16(kPm1Control, kSleepEnable | kSleepTypeS5 << kSleepTypeShift);
  out16(kPm1Control, kSleepEnable);  // QEMU's sleep type of S5 is 0
  out8(kDebugExitPort, 0);
  while (true) pause_cpu();
}

void fail(const char* text) {
  print("PROBE FAILED: ");
  print(text);
  print("\n");
  power_off();
}

bool has_word(const char* command_line, const char* word) {
  const char* at = find(command_line, word);
  if (at == nullptr) return false;
  const char after = at[prefix(at, word)];
  return after == '\0' || after == ' ';
}

uint64_t number_option(const char* command_line, const char* key, uint64_t otherwise) {
  const char* at = find(command_line, key);
  if (at == nullptr) return otherwise;
  at += prefix(at, key);
  uint64_t number = 0;
  for (; *at >= '0' && *at <= '9'; ++at) number = number * 10 + static_cast<uint64_t>(*at - '0');
  if (*at == 'K') number <<= 10U;
  if (*at == 'M') number <<= 20U;
  if (*at == 'G') number <<= 30U;
  return number;
}
