// The generation ids of VMs that were put back to a snapshot: the guest has to see another one than
// in the life that was given up, whatever its definition says. docs/formats/snapshot.md.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

struct Generation {
  std::string id;                        // what the guest sees
  std::vector<std::string> in_place_of;  // when its definition says one of these
};

nlohmann::json generation_to_json(const Generation& generation);
// Errors name `file`: another version, a key that is missing or of another kind, what is no UUID.
Result<Generation> generation_from_json(const nlohmann::json& json, std::string_view file);

// FOLDER/UUID.json, of the VM's UUID; none when it was never put back.
Result<std::optional<Generation>> read_generation(const std::string& folder,
                                                  const std::string& uuid);
// Durable; replaces an earlier one. `uuid` is a UUID.
Result<> write_generation(const std::string& folder, const std::string& uuid,
                          const Generation& generation);

// The generation id that a VM has whose definition says `defined`.
Result<std::string> generation_in_effect(const std::string& folder, const std::string& uuid,
                                         const std::string& defined);

}  // namespace plumb
