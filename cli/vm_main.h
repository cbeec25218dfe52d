// main() of plumb-vm: one VM's process, started by `plumb run`.
#pragma once

#include "cli/vm_disks.h"

namespace plumb {

// Arguments: NAME, the descriptor of its definition (JSON), the descriptor for the start report or
// -1, and "verbose". Returns the exit status. `decorate` is for tests.
int vm_main(int argc, char** argv, const EngineDecorator& decorate = {});

}  // namespace plumb
