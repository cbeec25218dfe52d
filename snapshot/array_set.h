// ArraySet: the arrays of plumb.toml; for images that are on none of them, their own file systems'
// reflinks; for what is left, copy-before-write by the VM.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_config.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/overlay_array.h"

namespace plumb {

class ArraySet {
 public:
  // They are opened when they are first needed. `overlays`: nullptr for none.
  ArraySet(std::vector<ArrayDefinition> definitions, std::unique_ptr<OverlayArray> overlays)
      : definitions_(std::move(definitions)), overlays_(std::move(overlays)) {}
  explicit ArraySet(std::vector<std::unique_ptr<ArrayProvider>> arrays,
                    std::unique_ptr<OverlayArray> overlays = nullptr)
      : arrays_(std::move(arrays)), overlays_(std::move(overlays)) {}

  struct Found {
    ArrayProvider* array = nullptr;  // stays the set's
    ArrayVolume volume;
  };
  // The first array that has the disk and can copy it at one instant. Errors (kArray): none has,
  // and maybe one does not answer.
  Result<Found> find(const DiskMedium& medium);
  // What keeps snapshots of disks that find() would leave to the VM; nullptr without one.
  OverlayArray* overlays() const { return overlays_.get(); }

  // By its name, as a record has it; "reflink:FOLDER" and "copy-before-write" are there without any
  // configuration. Error kArray: it is not in plumb.toml any more.
  Result<ArrayProvider*> get(const std::string& name);

  // Removes the snapshot of that name, also one that was only begun; without one, does nothing.
  Result<> remove_snapshot(const std::string& array, const std::string& name);
  // The same of a volume.
  Result<> remove_volume(const std::string& array, const std::string& name);

 private:
  ArrayProvider* opened(const std::string& name) const;
  Result<Found> leave_to_vm(const DiskMedium& medium, Error why) const;

  std::vector<ArrayDefinition> definitions_;
  std::vector<std::unique_ptr<ArrayProvider>> arrays_;  // those that are open
  std::unique_ptr<OverlayArray> overlays_;
};

// An error of an array, as one of kind kArray, unless it has a kind of its own.
Error array_error(Error error);

}  // namespace plumb
