// OverlayStore: the overlays of copy-before-write snapshots as files, and how those of a disk hang
// together (docs/formats/cow-overlay.md).
//
// FOLDER/KEY/NAME.cow is a snapshot's overlay; KEY is made of what the disk is: an image's absolute
// path, or a LUN's WWN. A snapshot that is deleted while others, or a VM, still need its overlay is
// NAME.deleted until they do not. FOLDER/KEY/lock is held by whoever adds to a chain or takes from
// it; who opens the newest overlay for a VM holds that one's own lock.
//
// All functions block.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/cow_overlay.h"
#include "blockdev/cow_reader.h"

namespace plumb {

class OverlayStore {
 public:
  // `limit_bytes`: of what a snapshot may keep; 0: half of what is free in the folder when it is
  // taken.
  explicit OverlayStore(std::string folder, uint64_t limit_bytes = 0)
      : folder_(std::move(folder)), limit_bytes_(limit_bytes) {}

  struct Overlay {
    std::string name;
    std::string path;
    bool deleted = false;
    CowHeader header;
    std::string older;  // UUID
    CowState state;
    uint64_t kept_bytes = 0;
  };
  // Of one disk, oldest first. Overlays that cannot be read, and those that lean on them, are not
  // among them.
  Result<std::vector<Overlay>> chain(const std::string& disk) const;
  // Of all disks, in no order.
  Result<std::vector<Overlay>> all() const;

  // A chain that nobody else changes.
  class Changes {
   public:
    // A new overlay, the newest from now on, for a disk of `size_bytes`: open and locked, for the
    // disk's VM. Errors: a name that is taken, no room.
    Result<UniqueFd> add(const std::string& name, uint64_t size_bytes);
    // Deletes a snapshot; what is gone already is fine. `let_go` is asked to have the VM that keeps
    // the overlay of this UUID give it up, when no snapshot needs that any more; with an error, or
    // when a snapshot does, the overlay stays, as deleted, until the next call of this or tidy().
    using LetGo = std::function<Result<>(const std::string& uuid)>;
    Result<> remove(const std::string& name, const LetGo& let_go);
    // Takes away what was deleted and is needed no longer.
    Result<> tidy(const LetGo& let_go);

   private:
    friend class OverlayStore;
    Changes(const OverlayStore& store, std::string disk, UniqueFd lock)
        : store_(store), disk_(std::move(disk)), lock_(std::move(lock)) {}
    Result<bool> tidy_once(const LetGo& let_go);
    Result<bool> take_newest(const std::vector<Overlay>& chain, const LetGo& let_go);
    Result<> take_inner(const std::vector<Overlay>& chain, size_t at);

    const OverlayStore& store_;
    std::string disk_;
    UniqueFd lock_;
  };
  // Waits for whoever changes it now. This outlives the result.
  Result<Changes> change(const std::string& disk) const;

  // For a VM that is about to use the disk, `base_fd`: the overlay that is to keep what it
  // overwrites, locked and open (open_cow_overlay()); an empty descriptor when the disk has no
  // snapshot, or none that is whole: then they are marked broken, and `lost` is told why. To be
  // called before anything else is done with the disk. Error kLocked: the overlay is in use, or is
  // being deleted.
  Result<UniqueFd> open_for_vm(const std::string& disk, int base_fd,
                               const std::function<void(const std::string& why)>& lost) const;

  // Reads a snapshot, while a VM writes or not. `base`: the disk.
  Result<std::unique_ptr<CowReader>> read(const std::string& disk, const std::string& name,
                                          UniqueFd base) const;

  // For a disk that no VM has, by whoever has locked it; deletions are to be kept away (change()).
  //
  // What the disk is now becomes the content of the newest snapshot, which add() has just made.
  Result<> keep_at_rest(const std::string& disk, int base_fd, UniqueFd overlay) const;
  // The disk gets the content of a snapshot; all of them stay (restore_cow_snapshot()). `base`: for
  // writing, with direct I/O.
  Result<> restore(const std::string& disk, const std::string& name, UniqueFd base) const;

  const std::string& folder() const { return folder_; }

 private:
  std::string folder_of(const std::string& disk) const;

  std::string folder_;
  uint64_t limit_bytes_;
};

}  // namespace plumb
