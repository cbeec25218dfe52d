// The log: lines on standard error, "plumb-vm[db1] info: text". Thread safe.
// Never put secrets here; guest text goes through printable() first.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <utility>

namespace plumb::log {

// kNothing is for configure() only: a program that provokes errors by the thousand is silent.
enum class Level { kDebug, kInfo, kWarning, kError, kNothing };

// Before any other thread runs. `prefix` starts every line.
void configure(std::string prefix, Level least);
void write(Level level, std::string_view text);
bool enabled(Level level);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kDebug))
    write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kInfo)) write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace plumb::log
