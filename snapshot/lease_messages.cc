#include "snapshot/lease_messages.h"

#include <nlohmann/json.hpp>

namespace plumb {

using Json = nlohmann::json;

Json hooks_to_json(const std::optional<HookReport>& hooks) {
  if (!hooks) return nullptr;
  return {{"count", hooks->count},
          {"thawed", hooks->thawed},
          {"good", hooks->good},
          {"failed", hooks->failed}};
}

Result<std::optional<HookReport>> hooks_from_json(const Json& json) {
  if (json.is_null()) return std::optional<HookReport>();
  try {
    return std::optional<HookReport>(HookReport{.count = json.at("count"),
                                                .thawed = json.at("thawed"),
                                                .good = json.at("good"),
                                                .failed = json.at("failed")});
  } catch (const Json::exception& error) {
    return failed("a lease tells of hooks in a way that is not known: {}", error.what());
  }
}

Json facts_to_json(const GuestFacts& facts) {
  Json systems = Json::array();
  for (const GuestFileSystem& one : facts.file_systems) {
    systems.push_back(
        {{"mountpoint", one.mountpoint}, {"type", one.type}, {"serials", one.serials}});
  }
  return {{"agent", facts.agent},
          {"os", {{"id", facts.os.id}, {"name", facts.os.name}, {"kernel", facts.os.kernel}}},
          {"file_systems", systems},
          {"hooks", hooks_to_json(facts.hooks)}};
}

Result<GuestFacts> facts_from_json(const Json& json) {
  try {
    const Json& os = json.at("os");
    GuestFacts facts{.agent = json.at("agent"),
                     .os = {.id = os.at("id"), .name = os.at("name"), .kernel = os.at("kernel")},
                     .file_systems = {},
                     .hooks = {}};
    for (const Json& one : json.at("file_systems")) {
      facts.file_systems.push_back({.mountpoint = one.at("mountpoint"),
                                    .type = one.at("type"),
                                    .serials = one.at("serials")});
    }
    Result<std::optional<HookReport>> hooks = hooks_from_json(json.at("hooks"));
    if (!hooks) return std::move(hooks).error();
    facts.hooks = std::move(hooks).value();
    return facts;
  } catch (const Json::exception& error) {
    return failed("a lease tells of its guest in a way that is not known: {}", error.what());
  }
}

}  // namespace plumb
