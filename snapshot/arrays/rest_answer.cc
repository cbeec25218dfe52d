#include "snapshot/arrays/rest_answer.h"

#include <algorithm>

#include "base/text.h"

namespace plumb::rest {
namespace {

using nlohmann::json;

constexpr size_t kMaxTextBytes = 1024;
constexpr size_t kMaxSentenceBytes = 300;
constexpr uint64_t kMaxNumber = uint64_t{1} << 62U;

}  // namespace

Result<json> parse_object(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return json::object();
  json answer = json::parse(text, nullptr, false);
  if (answer.is_discarded()) return failed("its answer is not JSON");
  if (!answer.is_object()) return failed("its answer is no JSON object");
  return answer;
}

const json* member(const json& object, std::string_view path) {
  const json* at = &object;
  while (!path.empty()) {
    const std::string name(path.substr(0, path.find('.')));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    if (!at->is_object()) return nullptr;
    const auto found = at->find(name);
    if (found == at->end() || found->is_null()) return nullptr;
    at = &*found;
  }
  return at;
}

Result<std::string> text_or_empty(const json& object, std::string_view path) {
  const json* value = member(object, path);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return failed("'{}' in its answer is no text", path);
  const auto& text = value->get_ref<const std::string&>();
  const bool good = std::ranges::none_of(text, [](unsigned char c) { return c < ' ' || c == 127; });
  if (good && text.size() <= kMaxTextBytes) return text;
  return failed("'{}' in its answer is too long, or has control characters", path);
}

Result<std::string> text(const json& object, std::string_view path) {
  std::string found = TRY(text_or_empty(object, path));
  if (found.empty()) return failed("its answer has no '{}'", path);
  return found;
}

Result<uint64_t> number(const json& object, std::string_view path) {
  const json* value = member(object, path);
  if (value == nullptr) return failed("its answer has no '{}'", path);
  if (value->is_number_unsigned() && value->get<uint64_t>() <= kMaxNumber) {
    return value->get<uint64_t>();
  }
  return failed("'{}' in its answer is no whole number in its bounds", path);
}

Result<bool> flag(const json& object, std::string_view path) {
  const json* value = member(object, path);
  if (value == nullptr) return false;
  if (!value->is_boolean()) return failed("'{}' in its answer is neither true nor false", path);
  return value->get<bool>();
}

Result<const json*> list(const json& object, std::string_view path) {
  const json* value = member(object, path);
  if (value == nullptr) return failed("its answer has no '{}'", path);
  if (!value->is_array()) return failed("'{}' in its answer is no list", path);
  return value;
}

std::string sentence(const json& object, std::string_view path) {
  const json* value = member(object, path);
  if (value == nullptr || !value->is_string()) return "";
  const auto& text = value->get_ref<const std::string&>();
  return printable(std::string_view(text).substr(0, kMaxSentenceBytes));
}

}  // namespace plumb::rest
