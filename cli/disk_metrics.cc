#include "cli/disk_metrics.h"

#include <fmt/format.h>

#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr double kNsPerSecond = 1e9;

Json latency_json(const LatencyHistogram& latency) {
  Json buckets = Json::array();
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
    if (latency.count(i) == 0) continue;
    Json bucket{{"count", latency.count(i)}};
    if (i + 1 < LatencyHistogram::kBuckets) {
      bucket["up_to_ns"] = LatencyHistogram::upper_bound_ns(i);
    }
    buckets.push_back(bucket);
  }
  return {{"total_ns", latency.total_ns()}, {"buckets", buckets}};
}

// One metric of Prometheus: its head, then a sample for each disk and kind of request.
class Writer {
 public:
  Writer(const std::string& vm, const std::vector<NamedStats>& disks) : vm_(vm), disks_(disks) {}

  void head(const char* name, const char* type, const char* help) {
    fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name,
                   type);
  }
  void per_disk(const char* name, const char* type, const char* help,
                const std::function<uint64_t(const DiskStats&)>& value) {
    head(name, type, help);
    for (const NamedStats& disk : disks_) {
      fmt::format_to(std::back_inserter(text_), "{}{{vm=\"{}\",disk=\"{}\"}} {}\n", name, vm_,
                     disk.disk, value(*disk.stats));
    }
  }
  void per_op(const char* name, const char* help,
              const std::function<uint64_t(const DiskOpStats&)>& value) {
    head(name, "counter", help);
    for_each_op([&](const std::string& labels, const DiskOpStats& stats) {
      fmt::format_to(std::back_inserter(text_), "{}{{{}}} {}\n", name, labels, value(stats));
    });
  }
  void latencies(const char* name, const char* help) {
    head(name, "histogram", help);
    for_each_op([&](const std::string& labels, const DiskOpStats& stats) {
      histogram(name, labels, stats.latency);
    });
  }
  std::string take() { return std::move(text_); }

 private:
  template <typename Visit>
  void for_each_op(const Visit& visit) {
    for (const NamedStats& disk : disks_) {
      for (size_t i = 0; i < kBlockOps; ++i) {
        const auto op = static_cast<BlockOp>(i);
        visit(fmt::format("vm=\"{}\",disk=\"{}\",op=\"{}\"", vm_, disk.disk, name_of(op)),
              disk.stats->of(op));
      }
    }
  }
  void histogram(const char* name, const std::string& labels, const LatencyHistogram& latency) {
    auto out = std::back_inserter(text_);
    uint64_t sum = 0;
    for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
      sum += latency.count(i);
      const std::string bound =
          i + 1 < LatencyHistogram::kBuckets
              ? fmt::format("{}",
                            static_cast<double>(LatencyHistogram::upper_bound_ns(i)) / kNsPerSecond)
              : "+Inf";
      fmt::format_to(out, "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, sum);
    }
    fmt::format_to(out, "{}_sum{{{}}} {}\n{}_count{{{}}} {}\n", name, labels,
                   static_cast<double>(latency.total_ns()) / kNsPerSecond, name, labels, sum);
  }

  const std::string& vm_;
  const std::vector<NamedStats>& disks_;
  std::string text_;
};

}  // namespace

Json statistics_json(const DiskStats& stats) {
  Json json{{"in_flight", stats.in_flight.load()}, {"stops", stats.stops.load()}};
  for (size_t i = 0; i < kBlockOps; ++i) {
    const auto op = static_cast<BlockOp>(i);
    const DiskOpStats& of = stats.of(op);
    json[name_of(op)] = {{"requests", of.requests.load()},
                         {"bytes", of.bytes.load()},
                         {"errors", of.errors.load()},
                         {"latency", latency_json(of.latency)}};
  }
  return json;
}

std::string prometheus_text(const std::string& vm, const std::vector<NamedStats>& disks) {
  Writer writer(vm, disks);
  writer.per_disk("plumb_disk_in_flight", "gauge", "Requests at the disk's device.",
                  [](const DiskStats& stats) { return uint64_t{stats.in_flight.load()}; });
  writer.per_disk("plumb_disk_stops_total", "counter", "Times an error stopped the disk.",
                  [](const DiskStats& stats) { return stats.stops.load(); });
  writer.per_op("plumb_disk_requests_total", "Requests ended.",
                [](const DiskOpStats& stats) { return stats.requests.load(); });
  writer.per_op("plumb_disk_bytes_total", "Bytes of requests that succeeded.",
                [](const DiskOpStats& stats) { return stats.bytes.load(); });
  writer.per_op("plumb_disk_errors_total", "Requests that failed at the device.",
                [](const DiskOpStats& stats) { return stats.errors.load(); });
  writer.latencies("plumb_disk_latency_seconds", "Time from the guest's request to its end.");
  return writer.take();
}

}  // namespace plumb
