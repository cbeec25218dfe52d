// Where this host keeps what plumb knows, and the arrays that its plumb.toml names.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_config.h"

namespace plumb {

// ${PLUMB_STATE_DIR:-/var/lib/plumb}
std::string state_root();

// ${PLUMB_CONFIG:-/etc/plumb/plumb.toml}; it need not exist.
std::string config_path();

// The arrays of that file; none without it.
Result<std::vector<ArrayDefinition>> configured_arrays();

}  // namespace plumb
