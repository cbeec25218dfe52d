// The arrays that this host's plumb.toml names.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/array_set.h"

namespace plumb {

// ${PLUMB_CONFIG:-/etc/plumb/plumb.toml}; it need not exist.
std::string config_path();

// The arrays of that file; none without it.
Result<std::vector<ArrayDefinition>> configured_arrays();
// The same as a set, with VMs that keep snapshots themselves.
Result<ArraySet> configured_array_set();

}  // namespace plumb
