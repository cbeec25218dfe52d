#include "blockdev/cow_restore.h"

#include <algorithm>
#include <vector>

#include "base/size.h"
#include "blockdev/cow_overlay.h"

namespace plumb {
namespace {

class Restoring {
 public:
  Restoring(CowFile& base, std::span<const std::unique_ptr<CowFile>> files)
      : base_(base), files_(files) {}

  Result<> load() {
    for (const std::unique_ptr<CowFile>& file : files_) {
      CowOverlay overlay = TRY(load_cow_overlay(*file));
      if (overlay.state.condition == CowCondition::kBroken) {
        return failed("snapshot {} ({}) is broken: {}", overlay.header.uuid, file->label(),
                      overlay.state.reason);
      }
      if (!overlays_.empty() &&
          (overlay.older != overlays_.back().header.uuid ||
           overlay.header.grain_bytes != overlays_.back().header.grain_bytes)) {
        return failed("{} does not follow snapshot {}", file->label(),
                      overlays_.back().header.uuid);
      }
      overlays_.push_back(std::move(overlay));
    }
    grain_.resize(overlays_.front().header.grain_bytes);
    return {};
  }

  // That the newest overlay may have all that it lacks.
  Result<> check_limit() const {
    const CowOverlay& newest = overlays_.back();
    if (newest.header.limit_bytes == 0) return {};
    uint64_t kept = newest.table.kept();
    for (uint64_t at = 0; at < grains(); ++at) {
      if (overlay_of(at) < overlays_.size() && !newest.table.has(at)) ++kept;
    }
    if (kept * grain_.size() <= newest.header.limit_bytes) return {};
    return failed(
        "{} would have to keep {} of what is overwritten, and its limit is {}; raise limit in "
        "[copy-before-write] of plumb.toml",
        files_.back()->label(), format_size(kept * grain_.size()),
        format_size(newest.header.limit_bytes));
  }

  // One page of the tables: first what is there now is kept, then it is overwritten.
  Result<> restore_page(uint64_t page) {
    const uint64_t first = page * kCowGrainsPerPage;
    const uint64_t end = std::min(first + kCowGrainsPerPage, grains());
    TRY(keep(page, first, end));
    const CowHeader& own = overlays_.front().header;
    for (uint64_t at = first; at < end; ++at) {
      const size_t place = overlay_of(at);
      if (place == overlays_.size()) continue;
      const std::span<std::byte> piece = piece_of(at, own);
      TRY(files_[place]->read(data_at(place, at), piece));
      TRY(base_.write(at * grain_.size(), piece));
    }
    return {};
  }

  uint64_t pages() const { return overlays_.front().table.pages(); }

 private:
  uint64_t grains() const { return overlays_.front().table.grains(); }
  uint64_t data_at(size_t place, uint64_t grain) const {
    return cow_data_at(overlays_[place].header) + grain * grain_.size();
  }
  // The part of a grain that is within the disk, as it was then.
  std::span<std::byte> piece_of(uint64_t grain, const CowHeader& header) {
    const uint64_t at = grain * grain_.size();
    return std::span(grain_).first(std::min<uint64_t>(grain_.size(), header.base_bytes - at));
  }
  // The first overlay that has it; their number when the disk does.
  size_t overlay_of(uint64_t grain) const {
    const auto found = std::ranges::find_if(overlays_, [grain](const CowOverlay& one) {
      return grain < one.table.grains() && one.table.has(grain);
    });
    return static_cast<size_t>(found - overlays_.begin());
  }

  Result<> keep(uint64_t page, uint64_t first, uint64_t end) {
    CowOverlay& newest = overlays_.back();
    CowFile& file = *files_.back();
    CowTable table = newest.table;
    for (uint64_t at = first; at < end; ++at) {
      if (table.has(at) || overlay_of(at) == overlays_.size()) continue;
      std::ranges::fill(grain_, std::byte{0});
      TRY(base_.read(at * grain_.size(), piece_of(at, newest.header)));
      TRY(file.write(data_at(overlays_.size() - 1, at), grain_));
      table.add(at);
    }
    if (table.kept() == newest.table.kept()) return {};
    TRY(file.sync());
    TRY(file.write(kCowTableAt + page * kCowPageBytes, table.page(page)));
    TRY(file.sync());
    newest.table = std::move(table);
    return {};
  }

  CowFile& base_;
  const std::span<const std::unique_ptr<CowFile>> files_;
  std::vector<CowOverlay> overlays_;  // of files_
  std::vector<std::byte> grain_;
};

}  // namespace

Result<> restore_cow_snapshot(CowFile& base, std::span<const std::unique_ptr<CowFile>> overlays) {
  ENSURE(!overlays.empty());
  Restoring restoring(base, overlays);
  TRY(restoring.load());
  TRY(restoring.check_limit());
  for (uint64_t page = 0; page < restoring.pages(); ++page) TRY(restoring.restore_page(page));
  return base.sync();
}

}  // namespace plumb
