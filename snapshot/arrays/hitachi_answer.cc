#include "snapshot/arrays/hitachi_answer.h"

#include <algorithm>

#include "rdm/lun_id.h"
#include "snapshot/arrays/rest_answer.h"

namespace plumb {
namespace {

using nlohmann::json;

constexpr uint64_t kBlockBytes = 512;
constexpr uint64_t kMegabyte = uint64_t{1} << 20U;
constexpr uint64_t kMostBlocks = uint64_t{1} << 50U;

Result<uint64_t> bytes_of(const json& object, const char* name, uint64_t unit) {
  const uint64_t count = TRY(rest::number(object, name));
  if (count <= kMostBlocks) return count * unit;
  return failed("'{}' in its answer is too large", name);
}

Result<HitachiPath> path_in(const json& object) {
  HitachiPath path;
  path.port = TRY(rest::text(object, "portId"));
  path.host_group = TRY(rest::number(object, "hostGroupNumber"));
  path.lun = TRY(rest::number(object, "lun"));
  return path;
}

Result<HitachiLdev> ldev_in(const json& object) {
  HitachiLdev ldev;
  ldev.number = TRY(rest::number(object, "ldevId"));
  const std::string emulation = TRY(rest::text_or_empty(object, "emulationType"));
  ldev.defined = !emulation.empty() && emulation != "NOT DEFINED";
  if (!ldev.defined) return ldev;
  ldev.label = TRY(rest::text_or_empty(object, "label"));
  ldev.size_bytes = TRY(bytes_of(object, "blockCapacity", kBlockBytes));
  const std::string naa = TRY(rest::text_or_empty(object, "naaId"));
  if (!naa.empty()) {
    Result<LunId> id = LunId::parse("naa." + naa);
    if (!id) return failed("'naaId' in its answer is no identity of a LUN");
    ldev.wwn = id->text();
  }
  if (rest::member(object, "ports") == nullptr) return ldev;
  for (const json& path : *TRY(rest::list(object, "ports"))) {
    ldev.paths.push_back(TRY(path_in(path)));
  }
  return ldev;
}

Result<HitachiPair> pair_in(const json& object) {
  HitachiPair pair;
  pair.primary = TRY(rest::number(object, "pvolLdevId"));
  pair.mirror_unit = TRY(rest::number(object, "muNumber"));
  pair.status = TRY(rest::text(object, "status"));
  pair.has_secondary = rest::member(object, "svolLdevId") != nullptr;
  if (pair.has_secondary) pair.secondary = TRY(rest::number(object, "svolLdevId"));
  return pair;
}

Result<HitachiPair> shadow_image_pair_in(const json& object) {
  HitachiPair pair;
  pair.primary = TRY(rest::number(object, "pvolLdevId"));
  pair.secondary = TRY(rest::number(object, "svolLdevId"));
  pair.has_secondary = true;
  pair.mirror_unit = TRY(rest::number(object, "pvolMuNumber"));
  pair.status = TRY(rest::text(object, "pvolStatus"));
  if (rest::member(object, "consistencyGroupId") != nullptr) {
    pair.consistency_group = TRY(rest::number(object, "consistencyGroupId"));
  }
  return pair;
}

template <typename T>
Result<std::vector<T>> each(std::string_view text, Result<T> (*read)(const json&)) {
  const json answer = TRY(rest::parse_object(text));
  std::vector<T> all;
  for (const json& one : *TRY(rest::list(answer, "data"))) all.push_back(TRY(read(one)));
  return all;
}

std::string reason_in(const json& object) {
  const std::string id = rest::sentence(object, "messageId");
  const std::string words = rest::sentence(object, "message");
  const std::string cause = rest::sentence(object, "cause");
  std::string text = id.empty() ? words : id + " " + words;
  if (!cause.empty() && cause != words) text += " " + cause;
  return text;
}

}  // namespace

namespace hitachi_answer {

Result<HitachiLdev> ldev(std::string_view text) { return ldev_in(TRY(rest::parse_object(text))); }
Result<std::vector<HitachiLdev>> ldevs(std::string_view text) { return each(text, ldev_in); }
Result<std::vector<HitachiPair>> pairs(std::string_view text) { return each(text, pair_in); }

Result<std::vector<HitachiPair>> shadow_image_pairs(std::string_view text) {
  return each(text, shadow_image_pair_in);
}

Result<HitachiJob> job(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  HitachiJob job;
  job.id = TRY(rest::number(answer, "jobId"));
  if (TRY(rest::text(answer, "status")) != "Completed") return job;
  const bool done = TRY(rest::text(answer, "state")) == "Succeeded";
  job.state = done ? HitachiJob::State::kDone : HitachiJob::State::kFailed;
  const json* error = rest::member(answer, "error");
  if (error != nullptr) job.reason = reason_in(*error);
  return job;
}

Result<HitachiPool> pool(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  HitachiPool pool;
  pool.status = TRY(rest::text(answer, "poolStatus"));
  pool.total_bytes = TRY(bytes_of(answer, "totalPoolCapacity", kMegabyte));
  pool.free_bytes =
      std::min(pool.total_bytes, TRY(bytes_of(answer, "availableVolumeCapacity", kMegabyte)));
  return pool;
}

Result<HitachiSession> session(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  HitachiSession session;
  session.token = TRY(rest::text(answer, "token"));
  session.id = TRY(rest::number(answer, "sessionId"));
  return session;
}

std::string reason(std::string_view text) {
  Result<json> answer = rest::parse_object(text);
  return answer ? reason_in(*answer) : "";
}

}  // namespace hitachi_answer
}  // namespace plumb
