// A definition for a copy of a VM: nobody takes it for the one that it was copied from.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/definition.h"

namespace plumb {

// A name, UUID, generation id, and serials of disks of its own; MAC addresses are made of the name.
// Errors: no name.
Result<> give_new_identity(VmDefinition& definition, const std::string& name);

}  // namespace plumb
