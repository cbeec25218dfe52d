// Going back to a copy-before-write snapshot: what was overwritten since is written to the disk
// again, while no VM has it. docs/formats/cow-overlay.md.
#pragma once

#include <memory>
#include <span>

#include "base/result.h"
#include "blockdev/cow_file.h"

namespace plumb {

// Gives `base` the content that it had when the first of `overlays` was made. `overlays`: that
// snapshot's own first, then each newer one; the last is the disk's newest, open
// (open_cow_overlay()) and locked by the caller, who also has the disk, and keeps deletions away.
// The disk keeps its size: what it grew by since stays as it is.
//
// Every snapshot stays what it is, also when this is cut short at any write: before a grain is
// written back, the newest overlay gets what is there now, durably. Repeated, it goes on. Errors,
// before anything is written: overlays that are broken or do not follow each other; the newest
// would have more than its limit. Later: those of the files.
Result<> restore_cow_snapshot(CowFile& base, std::span<const std::unique_ptr<CowFile>> overlays);

}  // namespace plumb
