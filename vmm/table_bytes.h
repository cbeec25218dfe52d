// TableBytes: grows a firmware table field by field, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/endian.h"

namespace plumb {

class TableBytes {
 public:
  void u8(unsigned value) { bytes_.push_back(static_cast<std::byte>(value)); }
  void u16(uint16_t value) { number(value); }
  void u32(uint32_t value) { number(value); }
  void u64(uint64_t value) { number(value); }
  void text(std::string_view value) {
    for (const char c : value) u8(static_cast<unsigned char>(c));
  }
  void zeroes(size_t count) { bytes_.resize(bytes_.size() + count); }

  size_t size() const { return bytes_.size(); }
  std::byte& operator[](size_t at) { return bytes_[at]; }

  // Sets the byte `at` so that the first `length` bytes sum up to zero.
  void checksum(size_t at, size_t length) {
    unsigned sum = 0;
    for (size_t i = 0; i < length; ++i) sum += static_cast<unsigned>(bytes_[i]);
    bytes_[at] = static_cast<std::byte>(0U - sum);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  template <typename T>
  void number(T value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    store_le<T>(&bytes_[at], value);
  }
  std::vector<std::byte> bytes_;
};

}  // namespace plumb
