#include <algorithm>
#include <nlohmann/json.hpp>

#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/command_array.h"

namespace plumb::command_answer {
namespace {

using nlohmann::json;

constexpr size_t kMaxTextBytes = 1024;
constexpr uint64_t kMaxSizeBytes = uint64_t{1} << 62U;

// "" is an object without anything.
Result<json> parse(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return json::object();
  json answer = json::parse(text, nullptr, false);
  if (answer.is_discarded()) return failed("its answer is not JSON");
  if (!answer.is_object()) return failed("its answer is no JSON object");
  return answer;
}

Result<const json*> member(const json& object, const char* name) {
  if (!object.is_object()) return failed("its answer has something else in place of an object");
  const auto found = object.find(name);
  if (found == object.end()) return failed("its answer has no '{}'", name);
  return &*found;
}

Result<std::string> text_of(const json& object, const char* name, bool may_be_empty = false) {
  const json& value = *TRY(member(object, name));
  if (!value.is_string()) return failed("'{}' in its answer is no text", name);
  const auto& text = value.get_ref<const std::string&>();
  const bool printable =
      std::ranges::none_of(text, [](unsigned char c) { return c < ' ' || c == 0x7f; });
  if (text.size() > kMaxTextBytes || !printable || (text.empty() && !may_be_empty)) {
    return failed("'{}' in its answer is empty, too long, or has control characters", name);
  }
  return text;
}

Result<uint64_t> bytes_of(const json& object, const char* name) {
  const json& value = *TRY(member(object, name));
  if (value.is_number_unsigned() && value.get<uint64_t>() <= kMaxSizeBytes) {
    return value.get<uint64_t>();
  }
  return failed("'{}' in its answer is no number of bytes", name);
}

// True when it is left out.
Result<bool> whole_of(const json& object) {
  const auto found = object.find("whole");
  if (found == object.end()) return true;
  if (!found->is_boolean()) return failed("'whole' in its answer is neither true nor false");
  return found->get<bool>();
}

Result<ArrayVolume> volume_in(const json& object) {
  ArrayVolume volume;
  volume.id = TRY(text_of(object, "id"));
  volume.name = TRY(text_of(object, "name"));
  volume.size_bytes = TRY(bytes_of(object, "size_bytes"));
  volume.whole = TRY(whole_of(object));
  return volume;
}

Result<ArraySnapshot> snapshot_in(const json& object) {
  ArraySnapshot snapshot;
  snapshot.id = TRY(text_of(object, "id"));
  snapshot.name = TRY(text_of(object, "name"));
  snapshot.volume_id = TRY(text_of(object, "volume_id"));
  snapshot.size_bytes = TRY(bytes_of(object, "size_bytes"));
  snapshot.whole = TRY(whole_of(object));
  return snapshot;
}

template <typename T>
Result<std::vector<T>> each(std::string_view text, const char* name,
                            Result<T> (*read)(const json&)) {
  const json answer = TRY(parse(text));
  const json& list = *TRY(member(answer, name));
  if (!list.is_array()) return failed("'{}' in its answer is no list", name);
  std::vector<T> all;
  for (const json& one : list) all.push_back(TRY(read(one)));
  return all;
}

}  // namespace

Result<std::optional<ArrayVolume>> found(std::string_view text) {
  const json answer = TRY(parse(text));
  const json& volume = *TRY(member(answer, "volume"));
  if (volume.is_null()) return std::optional<ArrayVolume>();
  return std::optional<ArrayVolume>(TRY(volume_in(volume)));
}

Result<ArrayVolume> volume(std::string_view text) {
  const json answer = TRY(parse(text));
  return volume_in(*TRY(member(answer, "volume")));
}

Result<std::vector<ArrayVolume>> volumes(std::string_view text) {
  return each(text, "volumes", volume_in);
}

Result<std::vector<ArraySnapshot>> snapshots(std::string_view text) {
  return each(text, "snapshots", snapshot_in);
}

Result<MappedVolume> mapped(std::string_view text) {
  const json answer = TRY(parse(text));
  MappedVolume mapped;
  mapped.wwn = TRY(text_of(answer, "wwn", true));
  mapped.device = TRY(text_of(answer, "device"));
  return mapped;
}

Result<ArrayCapacity> capacity(std::string_view text) {
  const json answer = TRY(parse(text));
  ArrayCapacity capacity;
  capacity.total_bytes = TRY(bytes_of(answer, "total_bytes"));
  capacity.free_bytes = TRY(bytes_of(answer, "free_bytes"));
  if (capacity.free_bytes <= capacity.total_bytes) return capacity;
  return failed("'free_bytes' in its answer is more than 'total_bytes'");
}

Result<> nothing(std::string_view text) {
  TRY(parse(text));
  return {};
}

}  // namespace plumb::command_answer
