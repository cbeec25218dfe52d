#include "base/log.h"

#include <unistd.h>

#include <cerrno>

namespace plumb::log {
namespace {

std::string g_prefix = "plumb";  // NOLINT: set once before threads start
Level g_least = Level::kInfo;    // NOLINT: set once before threads start

const char* name_of(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarning:
      return "warning";
    case Level::kError:
      return "error";
    case Level::kNothing:
      break;
  }
  return "?";
}

}  // namespace

void configure(std::string prefix, Level least) {
  g_prefix = std::move(prefix);
  g_least = least;
}

bool enabled(Level level) { return level >= g_least; }

void write(Level level, std::string_view text) {
  if (!enabled(level)) return;
  // One write per line, so that lines of several threads and processes do not mix.
  const std::string line = fmt::format("{} {}: {}\n", g_prefix, name_of(level), text);
  ssize_t done = 0;
  do {
    done = ::write(STDERR_FILENO, line.data(), line.size());
  } while (done < 0 && errno == EINTR);
}

}  // namespace plumb::log
