// CowReader: reads a snapshot, from its overlays and the disk, while a VM goes on writing: here or
// in another process, which needs descriptors for reading only.
//
// What the own overlay has not kept is in the next newer one, …, else on the disk. After reading
// from the disk it looks at the newest overlay again: a grain was recorded there, durably, before
// the guest's write to it was sent, so a grain that is still not recorded was read as it was, and
// one that is recorded by now is read again, from the overlay.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/cow_file.h"
#include "blockdev/cow_overlay.h"

namespace plumb {

// Blocks; one thread at a time.
class CowReader {
 public:
  struct Config {
    std::unique_ptr<CowFile> base;  // the disk
    // The snapshot's own first, then each newer one that the disk has now.
    std::vector<std::unique_ptr<CowFile>> overlays;
    // What the disk is like (stamp_cow_base): one that was changed while no VM kept the snapshot is
    // refused. None: the caller has looked, or nobody can have changed it.
    std::optional<CowBaseStamp> base_now;
    // Asked, inside read(), for the overlay that follows the one of this UUID: another snapshot was
    // made meanwhile, or its making did not get to its end. nullptr: there is none, and none is
    // being made (begin_cow). Empty: read() then ends with an error.
    std::function<Result<std::unique_ptr<CowFile>>(const std::string& uuid)> newer;
  };
  // Errors: an overlay that is broken, or is none; overlays that do not follow each other. One that
  // a VM left without letting it go counts as whole: its write order sees to that, unless the VM
  // said otherwise (CowDevice::go_on()): it has emptied it then.
  static Result<std::unique_ptr<CowReader>> open(Config config);

  const CowHeader& header() const { return overlays_.front().header; }
  uint64_t size_bytes() const { return header().base_bytes; }

  // The snapshot's bytes. Errors: those of the files; the snapshot was
  // broken meanwhile, or nobody keeps it any more. Then `to` holds anything.
  Result<> read(uint64_t offset, std::span<std::byte> to);

 private:
  explicit CowReader(Config config) : config_(std::move(config)) {}

  Result<> add(std::unique_ptr<CowFile> file);
  Result<> load_tables(size_t first);
  Result<> read_from_base(uint64_t offset, std::span<std::byte> to);
  size_t overlay_of(uint64_t grain) const;
  Result<> look_again(uint64_t first, uint64_t end);
  Result<> load_page(uint64_t page);
  Result<> check_writer(const CowState& state);
  Result<bool> follow();

  Config config_;
  std::vector<std::unique_ptr<CowFile>> files_;
  std::vector<CowOverlay> overlays_;  // of files_
  bool had_writer_ = false;           // the newest, when it was added
};

}  // namespace plumb
