// Sizes as people write and read them: "512M", "6 GiB". All units are binary.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

// Bytes of "4096", "64K", "512M", "512MiB", "6 G", "2T" (case does not matter). Errors: no
// number, an unknown unit, more than 2^63 - 1 bytes.
Result<uint64_t> parse_size(std::string_view text);

// "512 MiB", "1.5 GiB", "17 B": at most one decimal.
std::string format_size(uint64_t bytes);

}  // namespace plumb
