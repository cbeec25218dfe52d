// DiskHolder: lets no request of a guest's disks reach their media for a moment.
#pragma once

#include <chrono>
#include <functional>

#include "base/result.h"

namespace plumb {

class DiskHolder {
 public:
  virtual ~DiskHolder() = default;

  // Waits until nothing is in flight at any medium, keeps back what comes, and calls `held`, on the
  // caller's thread, later. An error names a disk that was not quiet within `limit`; then none is
  // held.
  virtual void hold(std::chrono::milliseconds limit, std::function<void(Result<>)> held) = 0;
  // Ends the hold; a `held` that is still due is not called. Harmless without one.
  virtual void release() = 0;
};

}  // namespace plumb
