// The [[array]] tables of plumb.toml: which arrays there are, and how each is reached.
// docs/arrays.md lists the keys.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/arrays/command_array.h"
#include "snapshot/arrays/dm_thin.h"
#include "snapshot/arrays/equallogic.h"
#include "snapshot/arrays/hitachi.h"
#include "snapshot/arrays/lvm_thin.h"
#include "snapshot/arrays/ontap.h"
#include "snapshot/arrays/rbd.h"
#include "snapshot/arrays/reflink.h"
#include "snapshot/arrays/xcopy.h"

namespace plumb {

using ArrayDefinition =
    std::variant<ReflinkConfig, CommandConfig, DmThinConfig, LvmThinConfig, XcopyConfig,
                 OntapConfig, HitachiConfig, EqualLogicConfig, RbdConfig>;

const std::string& array_name(const ArrayDefinition& definition);

// Reads the arrays of plumb.toml's text; its other tables are others'. `file_name` is for errors,
// which are of kind kUsage and name the line, and the nearest known key or provider.
// `state_folder` is where providers keep their state files. Pure.
Result<std::vector<ArrayDefinition>> read_arrays(std::string_view text, std::string_view file_name,
                                                 const std::string& state_folder);

// The "limit" of plumb.toml's table [copy-before-write]: how much a snapshot that a VM keeps may
// take, in bytes; 0 without one. Errors as above. Pure.
Result<uint64_t> read_overlay_limit(std::string_view text, std::string_view file_name);

// An error is of this array only: others may be well.
Result<std::unique_ptr<ArrayProvider>> open_array(const ArrayDefinition& definition);

// All of them, or the first error.
Result<std::vector<std::unique_ptr<ArrayProvider>>> open_arrays(
    const std::vector<ArrayDefinition>& definitions);

}  // namespace plumb
