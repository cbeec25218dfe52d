// A DiskSource as a message between processes of one host: facts as JSON, descriptors beside it.
// A VM's process can open nothing; who may, opens and claims for it and hands over the result.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/disk_source.h"

namespace plumb {

inline constexpr size_t kSourceFds = 3;  // at most: the source's, the mapping's lock, the overlay

nlohmann::json source_to_json(const DiskSource& source);
// The source's descriptors, in the order of the message; still the source's.
std::vector<int> source_fds(const DiskSource& source);

// Errors: JSON that is no source, or does not fit the descriptors.
Result<DiskSource> source_from_json(const nlohmann::json& json, std::vector<UniqueFd> fds);

}  // namespace plumb
