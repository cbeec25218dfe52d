// What parts of an export are like: which are holes, which have changed. A client asks by
// NBD_CMD_BLOCK_STATUS, and reads of holes are answered without reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace plumb::nbd {

// Flags of the context "base:allocation".
enum AllocationFlag : uint32_t { kHole = 1U << 0U, kZero = 1U << 1U };
// Of the contexts "qemu:dirty-bitmap:…".
enum DirtyFlag : uint32_t { kDirty = 1U << 0U };

struct Extent {
  uint64_t length = 0;  // bytes
  uint32_t flags = 0;

  bool operator==(const Extent&) const = default;
};

// Extents that follow each other, so many at most. None is empty, and no two neighbours are alike.
class ExtentList {
 public:
  // Of `length` bytes at most; both at least 1.
  ExtentList(uint64_t length, size_t most) : length_(length), most_(most) {}

  // Goes on with so many bytes; what is over length() is left out. False when no more fits: then
  // the rest is for the next question.
  bool add(uint64_t length, uint32_t flags);

  std::span<const Extent> extents() const { return extents_; }
  // Bytes that they cover, and that were asked for.
  uint64_t covered() const { return covered_; }
  uint64_t length() const { return length_; }

 private:
  uint64_t length_;
  size_t most_;
  uint64_t covered_ = 0;
  std::vector<Extent> extents_;
};

class ExtentSource {
 public:
  virtual ~ExtentSource() = default;

  // Adds the extents from `offset` on to `list`, until that has enough. list.length() bytes from
  // there are within the device, and at least one extent is added. Only on the device's I/O thread.
  // Errors: what is asked does not answer; the list is what it was, or shorter than it could be.
  virtual Result<> describe(uint64_t offset, ExtentList& list) = 0;
};

// What a bitmap says: kDirty where the bit of a grain is set. Fixed.
class BitmapExtents final : public ExtentSource {
 public:
  // Bit 0 of words[0] is the first grain of so many bytes; a grain without a bit is dirty, for what
  // is not known counts as changed.
  BitmapExtents(std::vector<uint64_t> words, uint64_t grain_bytes);

  Result<> describe(uint64_t offset, ExtentList& list) override;

 private:
  uint64_t run_end(uint64_t grain, bool dirty) const;
  bool dirty(uint64_t grain) const;

  const std::vector<uint64_t> words_;
  const uint64_t grain_bytes_;
};

// The holes of a file, as its file system tells (lseek(2), SEEK_HOLE). A block device, and what
// tells nothing, is data. Takes as long as the file system needs to look them up.
class FileExtents final : public ExtentSource {
 public:
  // `fd` outlives this. Holes begin and end at multiples of `block_bytes`, so that every extent
  // does.
  FileExtents(int fd, uint32_t block_bytes) : fd_(fd), block_bytes_(block_bytes) {}

  Result<> describe(uint64_t offset, ExtentList& list) override;

 private:
  const int fd_;
  const uint64_t block_bytes_;
};

}  // namespace plumb::nbd
