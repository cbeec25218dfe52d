// The io_uring engine: operations, file descriptors to watch and kicks are all entries of one
// ring, so a turn of the loop costs one io_uring_enter.
#pragma once

#include <memory>

#include "blockdev/io_engine.h"

namespace plumb {

class HelperThread;

// Sets a ring up for the calling thread, with the newest set-up flags the kernel takes. `helper`
// does what has no ring operation. Errors: io_uring is absent, forbidden by
// kernel.io_uring_disabled or seccomp, or out of locked memory; the message says which.
Result<std::unique_ptr<IoEngine>> make_uring_engine(HelperThread& helper);

}  // namespace plumb
