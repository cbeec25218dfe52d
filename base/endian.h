// Loads and stores of little-endian and big-endian integers at any alignment.
#pragma once

#include <bit>
#include <concepts>
#include <cstring>

namespace plumb {

template <std::unsigned_integral T>
T load_le(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  if constexpr (std::endian::native == std::endian::big) value = std::byteswap(value);
  return value;
}

template <std::unsigned_integral T>
void store_le(void* to, T value) {
  if constexpr (std::endian::native == std::endian::big) value = std::byteswap(value);
  std::memcpy(to, &value, sizeof(T));
}

template <std::unsigned_integral T>
T load_be(const void* from) {
  return std::byteswap(load_le<T>(from));
}

template <std::unsigned_integral T>
void store_be(void* to, T value) {
  store_le(to, std::byteswap(value));
}

}  // namespace plumb
