#include "snapshot/generation.h"

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/uuid.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;

std::string path_of(const std::string& folder, const std::string& uuid) {
  return folder + "/" + uuid + ".json";
}

Result<Generation> parse(const Json& json) {
  if (json.at("version") != kVersion) return failed("it is of another version; use a newer plumb");
  Generation generation;
  generation.id = TRY(Uuid::parse(json.at("generation_id").get<std::string>())).text();
  for (const Json& one : json.at("in_place_of")) {
    generation.in_place_of.push_back(TRY(Uuid::parse(one.get<std::string>())).text());
  }
  return generation;
}

}  // namespace

Json generation_to_json(const Generation& generation) {
  return {{"version", kVersion},
          {"generation_id", generation.id},
          {"in_place_of", generation.in_place_of}};
}

Result<Generation> generation_from_json(const Json& json, std::string_view file) {
  const auto broken = [&](std::string_view why) {
    return failed("generation record {} cannot be used: {}", file, why);
  };
  try {
    Result<Generation> generation = parse(json);
    return generation ? std::move(generation) : broken(generation.error().message);
  } catch (const Json::exception& error) {
    return broken(error.what());
  }
}

Result<std::optional<Generation>> read_generation(const std::string& folder,
                                                  const std::string& uuid) {
  const std::string path = path_of(folder, uuid);
  Result<std::string> text = read_file(path);
  if (!text && text.error().os_errno == ENOENT) return std::optional<Generation>();
  if (!text) return std::move(text).error();
  return std::optional(TRY(generation_from_json(Json::parse(*text, nullptr, false), path)));
}

Result<> write_generation(const std::string& folder, const std::string& uuid,
                          const Generation& generation) {
  TRY(make_folders(folder, 0700));
  return replace_file(path_of(folder, TRY(Uuid::parse(uuid)).text()),
                      generation_to_json(generation).dump(2) + "\n");
}

Result<std::string> generation_in_effect(const std::string& folder, const std::string& uuid,
                                         const std::string& defined) {
  const std::optional<Generation> generation = TRY(read_generation(folder, uuid));
  if (!generation ||
      std::ranges::find(generation->in_place_of, defined) == generation->in_place_of.end()) {
    return defined;
  }
  return generation->id;
}

}  // namespace plumb
