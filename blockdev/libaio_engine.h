// The Linux AIO engine: one io_submit per turn for all operations, completions and watched file
// descriptors in one epoll_wait. For hosts where io_uring is absent or forbidden.
#pragma once

#include <memory>

#include "blockdev/io_engine.h"

namespace plumb {

class HelperThread;

// `helper` does what Linux AIO cannot. Errors: no AIO in the kernel, fs.aio-max-nr exhausted.
Result<std::unique_ptr<IoEngine>> make_libaio_engine(HelperThread& helper);

}  // namespace plumb
