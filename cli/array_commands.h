// The commands of `plumb array`, which the program plumb-snapshot has.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/exit_code.h"

namespace plumb {

// kExitArray when one is not well.
Result<ExitCode> list_arrays(bool json);
// Of one array, or, when `name` is "", of all; says nothing when all is well.
Result<ExitCode> check_arrays(const std::string& name);

}  // namespace plumb
