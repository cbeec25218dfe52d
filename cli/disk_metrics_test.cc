#include "cli/disk_metrics.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

void count_write(DiskStats& stats, uint64_t bytes, int64_t ns) {
  DiskOpStats& writes = stats.of(BlockOp::kWrite);
  count_up(writes.requests);
  count_up(writes.bytes, bytes);
  writes.latency.add(ns);
}

// Whether `text` has that line.
bool has(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

}  // namespace

TEST_CASE("statistics in the text format of Prometheus") {
  DiskStats root;
  DiskStats data;
  count_write(data, 4096, 1500);
  count_write(data, 512, 3000);
  count_write(data, 512, int64_t{1} << 60U);
  count_up(data.of(BlockOp::kFlush).errors, 7);
  data.in_flight = 3;
  const std::string text = prometheus_text("db1", {{"root", &root}, {"data", &data}});
  CHECK(has(text, "# TYPE plumb_disk_latency_seconds histogram"));
  CHECK(has(text, "plumb_disk_in_flight{vm=\"db1\",disk=\"data\"} 3"));
  CHECK(has(text, "plumb_disk_requests_total{vm=\"db1\",disk=\"data\",op=\"write\"} 3"));
  CHECK(has(text, "plumb_disk_requests_total{vm=\"db1\",disk=\"root\",op=\"write\"} 0"));
  CHECK(has(text, "plumb_disk_bytes_total{vm=\"db1\",disk=\"data\",op=\"write\"} 5120"));
  CHECK(has(text, "plumb_disk_errors_total{vm=\"db1\",disk=\"data\",op=\"flush\"} 7"));
  // Buckets are cumulative, and the last one has them all.
  const std::string bucket =
      "plumb_disk_latency_seconds_bucket{vm=\"db1\",disk=\"data\",op=\"write\",le=";
  CHECK(has(text, bucket + "\"1e-06\"} 0"));
  CHECK(has(text, bucket + "\"2e-06\"} 1"));
  CHECK(has(text, bucket + "\"4e-06\"} 2"));
  CHECK(has(text, bucket + "\"16.777216\"} 2"));
  CHECK(has(text, bucket + "\"+Inf\"} 3"));
  CHECK(has(text, "plumb_disk_latency_seconds_count{vm=\"db1\",disk=\"data\",op=\"write\"} 3"));
}

TEST_CASE("statistics as JSON") {
  DiskStats stats;
  count_write(stats, 4096, 1500);
  const nlohmann::json json = statistics_json(stats);
  CHECK(json["write"]["requests"] == 1);
  CHECK(json["write"]["latency"]["buckets"] ==
        nlohmann::json::parse(R"([{"up_to_ns": 2000, "count": 1}])"));
  CHECK(json["read"]["latency"]["buckets"].empty());
}

}  // namespace plumb
