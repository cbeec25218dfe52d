#include "cli/keeper_protocol.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "cli/source_message.h"

namespace plumb {
namespace {

using Json = nlohmann::json;
using Action = KeeperRequest::Action;
using About = KeeperReport::About;
using State = LunFinding::State;

template <typename Value>
struct Word {
  Value value;
  const char* word;
};

constexpr Word<Action> kActions[] = {
    {Action::kWatch, "watch"}, {Action::kUnwatch, "unwatch"}, {Action::kLook, "look"}};
constexpr Word<About> kAbouts[] = {
    {About::kLook, "look"}, {About::kNews, "news"}, {About::kRefusal, "refusal"}};
constexpr Word<State> kStates[] = {{State::kWell, "well"},
                                   {State::kNew, "new"},
                                   {State::kSilent, "silent"},
                                   {State::kLost, "lost"},
                                   {State::kOther, "other"}};

template <typename Value, size_t kCount>
const char* word_of(const Word<Value> (&words)[kCount], Value value) {
  for (const Word<Value>& one : words) {
    if (one.value == value) return one.word;
  }
  return "";
}

// Throws what the JSON library throws.
template <typename Value, size_t kCount>
Value value_of(const Word<Value> (&words)[kCount], const Json& json) {
  const auto text = json.get<std::string>();
  for (const Word<Value>& one : words) {
    if (one.word == text) return one.value;
  }
  throw Json::other_error::create(501, "unknown word " + text, &json);
}

std::vector<std::byte> bytes_of(const Json& json) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Json parse(std::span<const std::byte> bytes) {
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  return Json::parse(text, text + bytes.size());
}

}  // namespace

std::vector<std::byte> encode_keeper_request(const KeeperRequest& request) {
  return bytes_of({{"do", word_of(kActions, request.action)},
                   {"disk", request.disk},
                   {"wwn", request.wwn},
                   {"read_only", request.read_only},
                   {"allow_weak_identity", request.allow_weak_identity},
                   {"shared", request.shared},
                   {"discard", request.discard}});
}

Result<KeeperRequest> decode_keeper_request(std::span<const std::byte> bytes) {
  KeeperRequest request;
  try {
    const Json json = parse(bytes);
    request.action = value_of(kActions, json.at("do"));
    json.at("disk").get_to(request.disk);
    json.at("wwn").get_to(request.wwn);
    json.at("read_only").get_to(request.read_only);
    json.at("allow_weak_identity").get_to(request.allow_weak_identity);
    json.at("shared").get_to(request.shared);
    json.at("discard").get_to(request.discard);
  } catch (const Json::exception& error) {
    return failed("a request to the keeper of LUNs cannot be read: {}", error.what());
  }
  return request;
}

std::vector<std::byte> encode_keeper_report(const KeeperReport& report) {
  Json json{{"about", word_of(kAbouts, report.about)},
            {"disk", report.disk},
            {"state", word_of(kStates, report.finding.state)},
            {"reason", report.finding.reason},
            {"grown", report.finding.grown}};
  if (report.finding.source) json["source"] = source_to_json(*report.finding.source);
  return bytes_of(json);
}

Result<KeeperReport> decode_keeper_report(std::span<const std::byte> bytes,
                                          std::vector<UniqueFd> fds) {
  KeeperReport report;
  Json source;
  try {
    const Json json = parse(bytes);
    report.about = value_of(kAbouts, json.at("about"));
    json.at("disk").get_to(report.disk);
    report.finding.state = value_of(kStates, json.at("state"));
    json.at("reason").get_to(report.finding.reason);
    json.at("grown").get_to(report.finding.grown);
    if (report.finding.state == State::kNew) source = json.at("source");
  } catch (const Json::exception& error) {
    return failed("a report of the keeper of LUNs cannot be read: {}", error.what());
  }
  if (report.finding.state == State::kNew) {
    report.finding.source = TRY(source_from_json(source, std::move(fds)));
  }
  return report;
}

}  // namespace plumb
