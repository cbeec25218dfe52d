// Reading JSON that an array sends: members by dotted paths, each with its type and bounds; nothing
// of it is believed before. Errors say which member is wrong. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb::rest {

// "" is an object without members, as some requests are answered.
Result<nlohmann::json> parse_object(std::string_view text);

// The member, "space.size"; nullptr when there is none, or null in its place.
const nlohmann::json* member(const nlohmann::json& object, std::string_view path);

// Printable, of 1024 bytes at most, and not empty.
Result<std::string> text(const nlohmann::json& object, std::string_view path);
// The same, but "" when it is not there.
Result<std::string> text_or_empty(const nlohmann::json& object, std::string_view path);

Result<uint64_t> number(const nlohmann::json& object, std::string_view path);
// False when it is not there.
Result<bool> flag(const nlohmann::json& object, std::string_view path);
Result<const nlohmann::json*> list(const nlohmann::json& object, std::string_view path);

// A sentence of the array's, fit for a message: one line, not long. "" when there is none.
std::string sentence(const nlohmann::json& object, std::string_view path);

}  // namespace plumb::rest
