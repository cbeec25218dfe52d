#include "base/size.h"

#include <cctype>
#include <charconv>

namespace plumb {
namespace {

// The power of 1024 that a unit stands for, or -1.
int power_of_unit(std::string_view unit) {
  if (unit.empty() || unit == "B") return 0;
  constexpr std::string_view kUnits = "KMGTP";
  const size_t at = kUnits.find(unit[0]);
  const std::string_view rest = unit.substr(1);
  if (at == std::string_view::npos || (!rest.empty() && rest != "B" && rest != "IB")) return -1;
  return static_cast<int>(at) + 1;
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  uint64_t number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    if (*c != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
  }
  const int power = power_of_unit(unit);
  if (status == std::errc::invalid_argument || power < 0) {
    return usage_error("'{}' is not a size; write for example 512M or 6G", text);
  }
  const int shift = 10 * power;
  constexpr uint64_t kMost = INT64_MAX;
  if (status != std::errc{} || number > (kMost >> shift)) {
    return usage_error("size '{}' is out of range", text);
  }
  return number << shift;
}

std::string format_size(uint64_t bytes) {
  constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int power = 0;
  uint64_t unit = 1;
  while (power < 6 && bytes / unit >= 1024) {
    unit *= 1024;
    ++power;
  }
  if (bytes % unit == 0) return fmt::format("{} {}", bytes / unit, kNames[power]);
  return fmt::format("{:.1f} {}", static_cast<double>(bytes) / static_cast<double>(unit),
                     kNames[power]);
}

}  // namespace plumb
