#include "snapshot/arrays/ontap_answer.h"

#include <algorithm>

#include "snapshot/arrays/rest_answer.h"

namespace plumb {
namespace {

using nlohmann::json;

Result<std::string> uuid_of(const json& object, std::string_view path) {
  std::string uuid = TRY(rest::text(object, path));
  if (is_ontap_uuid(uuid)) return uuid;
  return failed("'{}' in its answer is no UUID", path);
}

Result<OntapLun> lun_in(const json& object) {
  OntapLun lun;
  lun.uuid = TRY(uuid_of(object, "uuid"));
  lun.path = TRY(rest::text(object, "name"));
  lun.volume_uuid = TRY(uuid_of(object, "location.volume.uuid"));
  lun.volume = TRY(rest::text(object, "location.volume.name"));
  if (!lun.path.starts_with("/vol/" + lun.volume + "/") || lun.path.ends_with('/')) {
    return failed("the LUN '{}' in its answer is not in its volume", lun.path);
  }
  lun.wwn = ontap_wwn(TRY(rest::text_or_empty(object, "serial_number")));
  lun.os_type = TRY(rest::text_or_empty(object, "os_type"));
  lun.comment = TRY(rest::text_or_empty(object, "comment"));
  lun.size_bytes = TRY(rest::number(object, "space.size"));
  if (rest::member(object, "lun_maps") == nullptr) return lun;
  for (const json& map : *TRY(rest::list(object, "lun_maps"))) {
    lun.igroups.push_back(TRY(uuid_of(map, "igroup.uuid")));
  }
  return lun;
}

Result<OntapVolume> volume_in(const json& object) {
  OntapVolume volume;
  volume.uuid = TRY(uuid_of(object, "uuid"));
  volume.name = TRY(rest::text(object, "name"));
  volume.state = TRY(rest::text_or_empty(object, "state"));
  // One that is offline has no sizes.
  if (volume.state != "online") return volume;
  volume.size_bytes = TRY(rest::number(object, "space.size"));
  volume.available_bytes = TRY(rest::number(object, "space.available"));
  return volume;
}

Result<OntapGroup> group_in(const json& object) {
  OntapGroup group;
  group.uuid = TRY(uuid_of(object, "uuid"));
  group.name = TRY(rest::text(object, "name"));
  if (rest::member(object, "volumes") == nullptr) return group;
  for (const json& volume : *TRY(rest::list(object, "volumes"))) {
    group.volumes.push_back(TRY(uuid_of(volume, "uuid")));
  }
  return group;
}

Result<OntapName> name_in(const json& object) {
  OntapName name;
  name.uuid = TRY(uuid_of(object, "uuid"));
  name.name = TRY(rest::text_or_empty(object, "name"));
  name.comment = TRY(rest::text_or_empty(object, "comment"));
  return name;
}

template <typename T>
Result<OntapPage<T>> page_in(std::string_view text, Result<T> (*read)(const json&)) {
  const json answer = TRY(rest::parse_object(text));
  OntapPage<T> page;
  for (const json& record : *TRY(rest::list(answer, "records"))) {
    page.records.push_back(TRY(read(record)));
  }
  page.next = TRY(rest::text_or_empty(answer, "_links.next.href"));
  if (page.next.empty() || page.next.starts_with("/api/")) return page;
  return failed("the rest of its list is at '{}', which is not its interface", page.next);
}

}  // namespace

namespace ontap_answer {

Result<OntapLun> lun(std::string_view text) { return lun_in(TRY(rest::parse_object(text))); }
Result<OntapPage<OntapLun>> luns(std::string_view text) { return page_in(text, lun_in); }
Result<OntapPage<OntapVolume>> volumes(std::string_view text) { return page_in(text, volume_in); }
Result<OntapPage<OntapGroup>> groups(std::string_view text) { return page_in(text, group_in); }
Result<OntapPage<OntapName>> names(std::string_view text) { return page_in(text, name_in); }

Result<OntapJob> job(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  const std::string state = TRY(rest::text(answer, "state"));
  OntapJob job;
  if (state == "success") job.state = OntapJob::State::kDone;
  if (state == "failure") job.state = OntapJob::State::kFailed;
  job.message = rest::sentence(answer, "error.message");
  if (job.message.empty()) job.message = rest::sentence(answer, "message");
  return job;
}

Result<std::string> job_of(std::string_view text) {
  const json answer = TRY(rest::parse_object(text));
  if (rest::member(answer, "job") == nullptr) return std::string();
  return uuid_of(answer, "job.uuid");
}

std::string reason(std::string_view text) {
  Result<json> answer = rest::parse_object(text);
  return answer ? rest::sentence(*answer, "error.message") : "";
}

}  // namespace ontap_answer

std::string OntapMark::text() const {
  std::string text = fmt::format("plumb {} array={}", snapshot ? "snapshot" : "volume", array);
  if (!of.empty()) text += " of=" + of;
  if (partial) text += " partial";
  if (!take.empty()) text += " take=" + take;
  if (!group.empty()) text += " group=" + group;
  return text;
}

std::optional<OntapMark> OntapMark::parse(std::string_view comment) {
  constexpr std::string_view kPlumb = "plumb ";
  if (!comment.starts_with(kPlumb)) return std::nullopt;
  comment.remove_prefix(kPlumb.size());
  OntapMark mark;
  bool volume = false;
  while (!comment.empty()) {
    const std::string_view word = comment.substr(0, comment.find(' '));
    comment.remove_prefix(std::min(comment.size(), word.size() + 1));
    const size_t equals = std::min(word.find('='), word.size());
    const std::string_view key = word.substr(0, equals);
    const std::string value(word.substr(std::min(equals + 1, word.size())));
    if (word == "snapshot") mark.snapshot = true;
    if (word == "volume") volume = true;
    if (word == "partial") mark.partial = true;
    if (key == "array") mark.array = value;
    if (key == "of") mark.of = value;
    if (key == "take") mark.take = value;
    if (key == "group") mark.group = value;
  }
  const bool known = mark.snapshot != volume && (volume || is_ontap_uuid(mark.of));
  const bool takes =
      mark.take.empty() ||
      (mark.take.starts_with("plumb.") &&
       mark.take.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-") == std::string::npos);
  const bool good =
      takes && known && !mark.array.empty() && (mark.group.empty() || is_ontap_uuid(mark.group));
  return good ? std::optional(mark) : std::nullopt;
}

std::string ontap_path_in_snapshot(const std::string& path, const std::string& snapshot) {
  const size_t slash = path.find('/', std::string_view("/vol/").size());
  return path.substr(0, slash) + "/.snapshot/" + snapshot + path.substr(slash);
}

std::string ontap_wwn(std::string_view serial) {
  if (serial.size() != 12) return "";
  std::string wwn = "naa.600a0980";
  for (const unsigned char byte : serial) wwn += fmt::format("{:02x}", byte);
  return wwn;
}

bool is_ontap_uuid(std::string_view text) {
  constexpr std::string_view kShape = "........-....-....-....-............";
  return std::ranges::equal(text, kShape, [](char c, char shape) {
    const bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    return shape == '-' ? c == '-' : digit;
  });
}

}  // namespace plumb
