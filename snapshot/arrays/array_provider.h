// ArrayProvider: what copies the disks of guests at one instant without reading them: a storage
// array, or what stands in for one (a file system with reflinks, dm-thin, a command).
//
// One object per array of plumb.toml. Methods block, for seconds where the array takes them; an
// object is used by one thread at a time, several objects (of several processes) at once.
//
// Names: a letter or digit, then letters, digits and '-' ([a-z0-9-], at most kMaxNameBytes). One
// name is used once in an array, for a snapshot or for a volume. Every name that is in the array
// was given by who asked, who wrote it down first: so list_snapshots() and list_volumes() find
// again what was made just before a crash, and show also what was only begun (`whole` is false).
//
// Errors name the array, what was asked of it, and what it said. tests/conformance/array_suite.h
// holds every provider to this page; docs/arrays.md is for who configures one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace plumb {

// What a disk of a guest is made of: an image or a LUN.
struct DiskMedium {
  std::string image;   // absolute path of an image file; "" for a LUN
  std::string wwn;     // LunId::text() of a LUN; "" for an image
  std::string device;  // the path behind a LUN now: "/dev/dm-3"
  uint64_t size_bytes = 0;
};

// A volume of the array: what a LUN is inside it. The id is the provider's own, and stays.
struct ArrayVolume {
  std::string id;
  std::string name;
  uint64_t size_bytes = 0;
  bool whole = true;  // false: clone() or create() was cut short; good for remove() only
};

struct ArraySnapshot {
  std::string id;         // the provider's own, and stays
  std::string name;       // as it was asked for
  std::string volume_id;  // of which it is
  uint64_t size_bytes = 0;
  bool whole = true;  // false: take() or finish() was cut short; good for remove() only
};

// A volume or snapshot as this host sees it once it is mapped.
struct MappedVolume {
  std::string wwn;     // LunId::text(); "" for an image, and a device without an identity
  std::string device;  // "/dev/mapper/…", or the path of an image
};

struct ArrayCapacity {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
};

// Snapshots about to be taken: everything is checked, sessions are open, and the guests may be
// frozen. Its provider outlives it.
class PreparedSnapshot {
 public:
  // Drops what take() made, unless finish() was called.
  virtual ~PreparedSnapshot() = default;

  // The one request while guests are frozen and their disks held: the snapshots of all volumes.
  // Once. An error means that none is left when this object is gone.
  virtual Result<> take() = 0;

  // After the guests go on, and a take() that went well: waits until the snapshots are whole and
  // durable. In the order they were asked for. After an error the destructor drops them all.
  virtual Result<std::vector<ArraySnapshot>> finish() = 0;
};

class ArrayProvider {
 public:
  struct Abilities {
    bool group = false;       // one take() of several volumes is of one instant, also without holds
    bool instant = true;      // else finish() copies, and the volumes may not change until it ends
    bool provisions = false;  // create() makes volumes
    bool writable_snapshots = false;  // a snapshot can be mapped for writing without a clone
    bool claims = false;  // restore() wants the disk free: it claims it itself, or sees that it is
  };
  struct SnapshotRequest {
    ArrayVolume volume;
    std::string name;
  };
  static constexpr size_t kMaxNameBytes = 64;

  virtual ~ArrayProvider() = default;

  // The name of the array in plumb.toml.
  virtual const std::string& name() const = 0;
  virtual Abilities abilities() const = 0;

  // The volume behind a disk; none when it is not of this array. An error is an array that does not
  // answer.
  virtual Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) = 0;

  // Each volume once. Errors: no name or one that is taken, no such volume, no room, an array that
  // is not well.
  virtual Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) = 0;

  // A writable volume with the content of a snapshot; the two do not affect each other, and each
  // can be removed first.
  virtual Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) = 0;

  // A new volume that reads as zeroes; only with Abilities::provisions.
  virtual Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) = 0;

  // Gives a volume the content of a snapshot of it; the snapshot stays, and so does the volume's
  // identity. Nobody may use the volume meanwhile, which a provider checks where it can. After an
  // error or a crash the volume may hold neither content, until the call is repeated.
  virtual Result<> restore(const std::string& snapshot_id, const std::string& volume_id) = 0;

  // Shows a volume or snapshot to this host; a snapshot is read-only unless writable_snapshots.
  // Mapped twice is mapped. Unmapping what is not mapped, or gone, is fine; what is in use is an
  // error where the provider can tell.
  virtual Result<MappedVolume> map(const std::string& id) = 0;
  virtual Result<> unmap(const std::string& id) = 0;

  // Removes a snapshot, or a volume that clone() or create() made, and no other; unmaps it first.
  // What is gone already is fine: a removal that a crash interrupted is repeated.
  virtual Result<> remove(const std::string& id) = 0;

  // Snapshots, and volumes made by clone() or create(), whose name begins with `prefix`; in any
  // order.
  virtual Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) = 0;
  virtual Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) = 0;

  virtual Result<ArrayCapacity> capacity() = 0;
  // An error says what is wrong with the array, or why it cannot be reached.
  virtual Result<> health() = 0;
};

}  // namespace plumb
