// DiskHolder: lets no request of a guest's disks reach their media for a moment, and has them keep
// what is overwritten after that.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class DiskHolder {
 public:
  virtual ~DiskHolder() = default;

  // Waits until nothing is in flight at any medium, keeps back what comes, and calls `held`, on the
  // caller's thread, later. An error names a disk that was not quiet within `limit`; then none is
  // held.
  virtual void hold(std::chrono::milliseconds limit, std::function<void(Result<>)> held) = 0;
  // Ends the hold; a `held` that is still due is not called. Harmless without one. What keep() and
  // let_go() have begun comes to its end first.
  virtual void release() = 0;

  // --- Copy-before-write (blockdev/cow_switch.h); only while held, one at a time. `done` is called
  // on the caller's thread, later. ---

  struct Overlay {
    std::string disk;  // its id in the VM
    UniqueFd fd;       // a new overlay, locked
    std::string label;
  };
  // The disks as they are now become the content of the overlays. After an error some may be.
  virtual void keep(std::vector<Overlay> overlays, std::function<void(Result<>)> done) = 0;
  // The disk that has the overlay of this UUID goes on without one; fine when none has.
  virtual void let_go(const std::string& uuid, std::function<void(Result<>)> done) = 0;
};

}  // namespace plumb
