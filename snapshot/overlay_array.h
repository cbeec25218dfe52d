// OverlayArray: copy-before-write in the clothes of an array, for disks that no array can copy: the
// VM itself keeps what its guest overwrites (blockdev/cow_device.h).
//
// A volume is a disk of a VM, by what it is: an image's absolute path, or a LUN's WWN; a snapshot's
// id is "NAME of DISK". Such a snapshot has no path of its own, and is not mapped: clone() copies
// it. restore() is for a disk that no VM has: it writes back what was overwritten. Volumes made
// here are images in FOLDER/volumes. A snapshot of one of those, for a template, is the image
// itself under another name, and the image is read-only from then on.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/overlay_store.h"

namespace plumb {

inline constexpr const char* kOverlayArrayName = "copy-before-write";

class OverlayArray final : public ArrayProvider {
 public:
  struct Kept {
    std::string disk;  // as its volume
    UniqueFd overlay;  // a new one, locked
  };
  // What is asked of the VMs that have the disks.
  struct Vms {
    // While the disks are held: from now on their VMs keep in the overlays what is overwritten.
    std::function<Result<>(const std::vector<Kept>& disks)> keep;
    // The VM that has the overlay of this UUID gives it up.
    std::function<Result<>(const std::string& disk, const std::string& uuid)> let_go;
  };

  OverlayArray(OverlayStore store, Vms vms) : store_(std::move(store)), vms_(std::move(vms)) {}

  // Takes away what was deleted and was still needed then (OverlayStore::Changes::tidy).
  Result<> tidy();

  // Vms::keep of a disk that no VM has; `disk_fd`: open, and locked by the caller.
  Result<> keep_at_rest(const Kept& kept, int disk_fd) const;

  // A snapshot's content, while a VM writes or not.
  Result<std::unique_ptr<CowReader>> read(const std::string& snapshot_id) const;

  // Of whoever holds leases on the VMs; the former ones are returned.
  Vms exchange_vms(Vms vms) { return std::exchange(vms_, std::move(vms)); }

  const std::string& name() const override { return name_; }
  Abilities abilities() const override { return {.provisions = true, .claims = true}; }
  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override;
  Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) override;
  Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) override;
  Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) override;
  Result<> restore(const std::string& snapshot_id, const std::string& volume_id) override;
  Result<MappedVolume> map(const std::string& id) override;
  Result<> unmap(const std::string& id) override;
  Result<> remove(const std::string& id) override;
  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override;
  Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) override;
  Result<ArrayCapacity> capacity() override;
  Result<> health() override;

 private:
  class Prepared;

  std::string volumes() const { return store_.folder() + "/volumes/"; }
  Result<UniqueFd> make_image(const std::string& name, uint64_t size_bytes) const;
  Result<ArrayVolume> finish_image(const std::string& name, int fd, uint64_t size_bytes) const;
  template <typename T>
  Result<std::vector<T>> list_images(const std::string& prefix, std::string_view ending) const;

  const std::string name_ = kOverlayArrayName;
  OverlayStore store_;
  Vms vms_;
};

}  // namespace plumb
