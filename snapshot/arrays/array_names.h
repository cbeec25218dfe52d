// What every provider asks of the names it is given (array_provider.h). Pure.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

bool is_array_name(std::string_view name);

// An error that shows the rule.
Result<> check_array_name(const std::string& array, std::string_view name);

// That there is something to take, each name is a name, and names and volumes are there once.
Result<> check_requests(const std::string& array,
                        std::span<const ArrayProvider::SnapshotRequest> requests);

// The error for a name that is used already.
Error name_taken(const std::string& array, std::string_view name);

}  // namespace plumb
