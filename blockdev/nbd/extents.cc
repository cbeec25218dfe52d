#include "blockdev/nbd/extents.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

namespace plumb::nbd {
namespace {

constexpr uint64_t kWordBits = 64;

}  // namespace

bool ExtentList::add(uint64_t length, uint32_t flags) {
  const uint64_t wanted = std::min(length, length_ - covered_);
  if (wanted > 0) {
    const bool alike = !extents_.empty() && extents_.back().flags == flags;
    if (!alike && extents_.size() == most_) return false;
    if (!alike) extents_.push_back({0, flags});
    extents_.back().length += wanted;
    covered_ += wanted;
  }
  return covered_ < length_;
}

BitmapExtents::BitmapExtents(std::vector<uint64_t> words, uint64_t grain_bytes)
    : words_(std::move(words)), grain_bytes_(grain_bytes) {
  ENSURE(grain_bytes_ > 0);
}

bool BitmapExtents::dirty(uint64_t grain) const {
  const uint64_t word = grain / kWordBits;
  return word >= words_.size() || (words_[word] >> (grain % kWordBits) & 1U) != 0;
}

// The first grain from `grain` on that is otherwise; where there are no more bits, all are dirty.
uint64_t BitmapExtents::run_end(uint64_t grain, bool dirty) const {
  const uint64_t bits = words_.size() * kWordBits;
  while (grain < bits) {
    const uint64_t shift = grain % kWordBits;
    const uint64_t word = words_[grain / kWordBits];
    const uint64_t others = (dirty ? ~word : word) >> shift;
    if (others != 0) return grain + static_cast<uint64_t>(std::countr_zero(others));
    grain += kWordBits - shift;
  }
  return dirty ? UINT64_MAX : grain;
}

Result<> BitmapExtents::describe(uint64_t offset, ExtentList& list) {
  const uint64_t end = offset + list.length();
  while (offset < end) {
    const uint64_t grain = offset / grain_bytes_;
    const bool is_dirty = dirty(grain);
    const uint64_t next = run_end(grain, is_dirty);
    const uint64_t until = next > end / grain_bytes_ ? end : next * grain_bytes_;
    if (!list.add(until - offset, is_dirty ? uint32_t{kDirty} : 0)) break;
    offset = until;
  }
  return {};
}

Result<> FileExtents::describe(uint64_t offset, ExtentList& list) {
  const uint64_t end = offset + list.length();
  while (offset < end) {
    const off_t found = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
    // ENXIO: a hole up to the end of the file. EINVAL: a file system that tells nothing.
    if (found < 0 && errno != ENXIO) {
      if (errno != EINVAL) return os_error(errno, "the holes of a disk cannot be looked up");
      list.add(end - offset, 0);
      return {};
    }
    const uint64_t data = found < 0 ? end : std::min(static_cast<uint64_t>(found), end);
    // A hole that ends within a block, and is not all that was asked for, ends before it.
    const uint64_t hole_end = data == end ? end : data / block_bytes_ * block_bytes_;
    if (hole_end > offset) {
      if (!list.add(hole_end - offset, kHole | kZero)) return {};
      offset = hole_end;
      continue;
    }
    const off_t hole = ::lseek(fd_, static_cast<off_t>(data), SEEK_HOLE);
    if (hole < 0) return os_error(errno, "the holes of a disk cannot be looked up");
    const uint64_t data_end =
        (static_cast<uint64_t>(hole) + block_bytes_ - 1) / block_bytes_ * block_bytes_;
    const uint64_t until = std::clamp(data_end, std::min(data + 1, end), end);
    if (!list.add(until - offset, 0)) return {};
    offset = until;
  }
  return {};
}

}  // namespace plumb::nbd
