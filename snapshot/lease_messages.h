// What a FreezeLease and its owner tell each other about a guest, as JSON. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "base/result.h"
#include "snapshot/guest_freezer.h"

namespace plumb {

nlohmann::json facts_to_json(const GuestFacts& facts);
Result<GuestFacts> facts_from_json(const nlohmann::json& json);

// null for none.
nlohmann::json hooks_to_json(const std::optional<HookReport>& hooks);
Result<std::optional<HookReport>> hooks_from_json(const nlohmann::json& json);

}  // namespace plumb
