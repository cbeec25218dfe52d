#include "cli/event_log.h"

#include <ctime>

#include "base/log.h"

namespace plumb {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[sizeof "2026-01-01T00:00:00Z"];
  std::strftime(text, sizeof(text), "%FT%TZ", &parts);
  return text;
}

}  // namespace

void EventLog::add(const std::string& kind, const std::string& disk, const std::string& message) {
  if (kind == "disk-error") {
    log::error("{}", message);
  } else {
    log::info("{}", message);
  }
  nlohmann::json event{
      {"sequence", ++sequence_}, {"time", utc_now()}, {"kind", kind}, {"message", message}};
  if (!disk.empty()) event["disk"] = disk;
  events_.push_back(std::move(event));
  if (events_.size() > kKept) events_.pop_front();
}

nlohmann::json EventLog::json() const { return events_; }

}  // namespace plumb
