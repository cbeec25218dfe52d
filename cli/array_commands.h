// The commands of `plumb array`, and those of `plumb disk` that make disks in arrays, which the
// program plumb-snapshot has.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/exit_code.h"

namespace plumb {

// kExitArray when one is not well.
Result<ExitCode> list_arrays(bool json);
// Of one array, or, when `name` is "", of all; says nothing when all is well.
Result<ExitCode> check_arrays(const std::string& name);

struct ArrayDiskOptions {
  std::string name;
  std::string array;
  std::string size;  // of a new one
  bool json = false;
};
// Prints what a definition is to say.
Result<ExitCode> create_disk(const ArrayDiskOptions& options);
Result<ExitCode> delete_disk(const ArrayDiskOptions& options);

}  // namespace plumb
