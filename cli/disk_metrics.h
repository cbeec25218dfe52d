// The statistics of disks as JSON and in the text format of Prometheus (version 0.0.4,
// prometheus.io/docs/instrumenting/exposition_formats). Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "blockdev/disk_stats.h"

namespace plumb {

struct NamedStats {
  std::string disk;
  const DiskStats* stats = nullptr;
};

// {"in_flight", "stops", "read": {"requests", "bytes", "errors", "latency": {…}}, "write": …}; the
// latencies as {"total_ns", "buckets": [{"up_to_ns", "count"}…]}, empty buckets left out, the last
// one without "up_to_ns".
nlohmann::json statistics_json(const DiskStats& stats);

// `vm` and the disks' names are letters, digits, '-', '_' and '.' (definition.h).
std::string prometheus_text(const std::string& vm, const std::vector<NamedStats>& disks);

}  // namespace plumb
