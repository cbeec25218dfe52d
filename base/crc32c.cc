#include "base/crc32c.h"

#include <array>

namespace plumb {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bit 0 first

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1U) ^ ((remainder & 1U) != 0 ? kPolynomial : 0);
    }
    table[byte] = remainder;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = make_table();

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t remainder = ~0U;
  for (const char c : bytes) {
    remainder = (remainder >> 8U) ^ kTable[(remainder ^ static_cast<unsigned char>(c)) & 0xffU];
  }
  return ~remainder;
}

}  // namespace plumb
