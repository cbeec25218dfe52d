#include "snapshot/arrays/rbd_answer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "snapshot/arrays/rest_answer.h"

namespace plumb::rbd_answer {
namespace {

using nlohmann::json;

// Without these no write to the pool completes, whatever severity Ceph gives them.
constexpr std::string_view kStopping[] = {"OSD_FULL", "POOL_FULL", "PG_AVAILABILITY"};

Result<json> parse_list(std::string_view text) {
  json answer = json::parse(text, nullptr, false);
  if (answer.is_array()) return answer;
  return failed("its answer is no JSON list");
}

Result<RbdImage> image_in(const json& row, const char* name) {
  RbdImage image;
  image.id = TRY(rest::text_or_empty(row, "id"));
  image.name = TRY(rest::text(row, name));
  image.size_bytes = TRY(rest::number(row, "size"));
  return image;
}

// A check of another pool is none of this one's; its details say which.
bool concerns(const json& check, std::string_view pool) {
  const json* details = rest::member(check, "detail");
  if (details == nullptr || !details->is_array() || details->empty()) return true;
  const std::string quoted = "'" + std::string(pool) + "'";
  return std::ranges::any_of(*details, [&](const json& detail) {
    return rest::sentence(detail, "message").find(quoted) != std::string::npos;
  });
}

void add(std::string& sentences, const std::string& code, const json& check) {
  if (!sentences.empty()) sentences += "; ";
  sentences += code + ": " + rest::sentence(check, "summary.message");
}

}  // namespace

Result<std::vector<RbdImage>> images(std::string_view text) {
  std::vector<RbdImage> all;
  for (const json& row : TRY(parse_list(text))) {
    RbdImage image = TRY(image_in(row, "image"));
    if (image.id.empty()) continue;
    if (rest::member(row, "snapshot") == nullptr) {
      all.push_back(std::move(image));
      continue;
    }
    // An image's own row comes before those of its snapshots.
    if (all.empty() || all.back().id != image.id) {
      return failed("its answer has a snapshot of {} without the image", image.name);
    }
    RbdSnapshot snapshot{.name = TRY(rest::text(row, "snapshot")), .size_bytes = image.size_bytes};
    snapshot.id = TRY(rest::number(row, "snapshot_id"));
    all.back().snapshots.push_back(std::move(snapshot));
  }
  return all;
}

Result<std::vector<std::string>> names(std::string_view text) {
  std::vector<std::string> all;
  for (const json& name : TRY(parse_list(text))) {
    if (!name.is_string()) return failed("its answer has a name that is no text");
    all.push_back(name.get<std::string>());
  }
  return all;
}

Result<RbdImage> image(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  RbdImage image = TRY(image_in(answer, "name"));
  if (image.id.empty()) {
    return failed("the image {} is of format 1; migrate it with rbd migration", image.name);
  }
  return image;
}

Result<std::vector<uint64_t>> watchers(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  std::vector<uint64_t> all;
  for (const json& watcher : *TRY(rest::list(answer, "watchers"))) {
    all.push_back(TRY(rest::number(watcher, "client")));
  }
  return all;
}

Result<std::string> fsid(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  return rest::text(answer, "fsid");
}

Result<ArrayCapacity> capacity(std::string_view text, std::string_view pool) {
  const json answer = TRY(rest::parse_object(text));
  for (const json& one : *TRY(rest::list(answer, "pools"))) {
    if (TRY(rest::text(one, "name")) != pool) continue;
    const uint64_t stored = TRY(rest::number(one, "stats.stored"));
    const uint64_t free = TRY(rest::number(one, "stats.max_avail"));
    ArrayCapacity capacity{stored + free, free};
    if (rest::member(one, "stats.quota_bytes") == nullptr) return capacity;
    const uint64_t quota = TRY(rest::number(one, "stats.quota_bytes"));
    if (quota == 0 || quota >= capacity.total_bytes) return capacity;
    return ArrayCapacity{quota, quota - std::min(stored, quota)};
  }
  return failed("there is no such pool");
}

Result<RbdHealth> health(std::string_view text, std::string_view pool) {
  const json answer = TRY(rest::parse_object(text));
  const std::string status = TRY(rest::text(answer, "status"));
  RbdHealth health;
  const json* checks = rest::member(answer, "checks");
  if (checks == nullptr || !checks->is_object()) return failed("its answer has no 'checks'");
  for (const auto& [code, check] : checks->items()) {
    const bool stopping = std::ranges::find(kStopping, code) != std::end(kStopping);
    if (stopping && (code != "POOL_FULL" || concerns(check, pool))) {
      add(health.stopped, code, check);
    } else if (TRY(rest::text_or_empty(check, "severity")) == "HEALTH_ERR" &&
               !TRY(rest::flag(check, "muted"))) {
      add(health.ill, code, check);
    }
  }
  // A status that no check explains is believed all the same.
  if (status == "HEALTH_ERR" && health.stopped.empty() && health.ill.empty()) health.ill = status;
  return health;
}

}  // namespace plumb::rbd_answer
