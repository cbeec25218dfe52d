// Overlays of copy-before-write snapshots as files: making one, opening it for a VM, looking at it,
// merging it into an older one. docs/formats/cow-overlay.md; cow_device.h for what a VM does with
// one, cow_reader.h for reading a snapshot.
//
// The overlays of a disk form a chain, oldest first. Only the newest is written. A snapshot is read
// as its own overlay, else the next newer one, …, else the disk; so a broken overlay breaks those
// older than it too. All functions block.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/cow_file.h"
#include "blockdev/cow_overlay_format.h"

namespace plumb {

// An overlay as it was read.
struct CowOverlay {
  CowHeader header;
  std::string older;  // its UUID; "" for the oldest of the chain
  CowState state;
  CowTable table;
};

// Writes a new overlay, in the condition kOpen, into `file`, of cow_file_bytes() bytes that read as
// zeroes; durable when it returns. `older`: the newest until now, "" for the first. The header
// comes last: a crash leaves an overlay or none.
Result<> format_cow_overlay(CowFile& file, const CowHeader& header, const std::string& older);

// The same as a new sparse file, whole or not at all. `path` must not exist. Returns it open for
// reading and writing, and locked (lock_file): for a VM.
Result<UniqueFd> create_cow_overlay(const std::string& path, const CowHeader& header,
                                    const std::string& older);

// Reads an overlay. Errors: those of the parsers.
Result<CowOverlay> load_cow_overlay(CowFile& file);

// What the disk is like: of a file its size and times, of a block device its size. Writes the
// file's times to the medium first, that they stay what they are.
Result<CowBaseStamp> stamp_cow_base(int fd, const std::string& label);

// Error: the disk was changed since the last VM let this overlay go. A LUN tells its size only, and
// may have grown.
Result<> check_cow_base(const CowOverlay& overlay, const CowBaseStamp& now);

// Loads the newest overlay of a disk that a VM is about to use, and marks it kOpen, durably; the
// caller holds its lock (lock_file). Errors: it is broken; it is of another disk than `disk`, or of
// a larger one; the disk was changed since a VM let it go, so that the snapshot is not whole: then
// it stays as it is.
Result<CowOverlay> open_cow_overlay(CowFile& file, const std::string& disk,
                                    const CowBaseStamp& now);

// Records, durably, how an overlay is left by who used it outside a VM: kSealed, or kClean with
// what the disk is like now.
Result<> leave_cow_overlay(CowFile& file, CowCondition condition, const CowBaseStamp& now = {});

// Marks an overlay broken, durably, for reasons found outside a VM.
Result<> break_cow_overlay(CowFile& file, const std::string& reason);

// Lets readers of other processes know that this process does not keep to the write order any more,
// and could not say so in the overlay: they stop at what they would read from the disk. `fd`: as
// locked. See CowDevice::go_on().
Result<> disown_cow_overlay(int fd, const std::string& label);

// Deletes a snapshot's content: the grains of `from` go into `into`, the next older overlay, where
// that has none. Neither may be open in a VM, but for readers, who find the same before, meanwhile
// and after. When `from` was the newest, `into` is from then on. Idempotent: interrupted, or ended
// with an error, it is repeated. Then, in this order: relink_cow_overlay() of the next newer one,
// if there is one; the file of `from` is removed.
Result<> merge_cow_overlay(CowFile& from, CowFile& into);

// `older` is from now on the next older overlay of this one; "": none.
Result<> relink_cow_overlay(CowFile& file, const std::string& older);

}  // namespace plumb
