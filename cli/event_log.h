// EventLog: the last things that happened to a VM, for its control API. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>

namespace plumb {

class EventLog {
 public:
  static constexpr size_t kKept = 100;

  // `kind`: "disk-error", "paused", "resumed", "resized", "reset", "lun-lost", "lun-back",
  // "lun-changed", "disk-attached", "disk-detaching", "disk-detached", "disk-forced-off"; `disk` ""
  // for none. Also logged.
  void add(const std::string& kind, const std::string& disk, const std::string& message);

  // [{"sequence" (from 1), "time" (UTC, ISO 8601), "kind", "disk", "message"}…], the oldest first.
  nlohmann::json json() const;

 private:
  uint64_t sequence_ = 0;
  std::deque<nlohmann::json> events_;
};

}  // namespace plumb
