// Puts copy-before-write devices into a disk that works, and takes them out, at an instant that the
// guest does not notice.
//
// All on the disk's I/O thread, while the caller holds the disk (Disk::hold) and it is drained;
// `done` is called there, later, and only then may the hold be released. Meanwhile nothing else is
// done with the disk.
#pragma once

#include <functional>
#include <memory>

#include "base/result.h"
#include "blockdev/block_device.h"
#include "blockdev/cow_device.h"
#include "blockdev/disk.h"

namespace plumb {

struct CowBegin {
  std::unique_ptr<BlockDevice> overlay;  // a new overlay's file
  CowOverlay content;                    // as load_cow_overlay() reads it: a new one
  CowDevice::Config config;
  CowDevice* present = nullptr;  // what the disk has now; nullptr: no snapshot is kept
};
struct CowBegun {
  CowDevice* device = nullptr;            // the disk's from now on
  std::unique_ptr<BlockDevice> previous;  // the overlay of `present`, sealed; to be closed
};
// The disk as it is now becomes the content of a new snapshot. The disk is flushed, since what a
// crash could take back is no content; then the present overlay is sealed. An error, of one of
// these two, leaves all as it was; the new overlay is closed, and may be removed.
void begin_cow(Disk& disk, CowBegin begin, std::move_only_function<void(Result<CowBegun>)> done);

// The disk goes on without a snapshot, after `last` is recorded in the overlay: kClean with what
// the disk is like now, when the VM ends; kBroken when no snapshot is to be kept any more. Returns
// the overlay, to be closed. An error leaves the device where it is: to go on all the same, see to
// it that nobody reads the snapshot (disown_cow_overlay), and use drop_cow().
void end_cow(Disk& disk, CowDevice& present, CowState last,
             std::move_only_function<void(Result<std::unique_ptr<BlockDevice>>)> done);
std::unique_ptr<BlockDevice> drop_cow(Disk& disk, CowDevice& present);

}  // namespace plumb
