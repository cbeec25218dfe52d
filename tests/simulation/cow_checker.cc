#include "tests/simulation/cow_checker.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

namespace plumb::simulation {

// Calls `see` with what a crash may leave of the overlay's block at byte `at`, from that byte on.
template <typename See>
void CowChecker::visit(const KeptSnapshot& snapshot, uint64_t at, See see) const {
  const SimDevice& overlay = *snapshot.overlay;
  const auto block = static_cast<uint32_t>(at / overlay.block_size());
  const uint64_t skip = at % overlay.block_size();
  const auto shifted = [&](const std::byte* bytes, uint64_t) { see(bytes + skip); };
  if (snapshot.device.has_value()) {
    engine_->visit_outcomes(*snapshot.device, block, shifted);
  } else {
    overlay.visit_outcomes(block, shifted);
  }
}

// The grains about which the step says something.
CowChecker::Range CowChecker::touched(const SimStep& step) const {
  const CowHeader& header = snapshots_.front().header;
  const Range all{.first = 0, .end = cow_grains(header)};
  if (step.op->kind == IoOpKind::kSync) return all;
  const bool disk = step.device == 0;
  const uint64_t size = engine_->device(step.device).block_size();
  const uint64_t data_at = disk ? 0 : cow_data_at(header);
  const uint64_t first = step.first_block * size;
  const uint64_t end = first + step.blocks * size;
  if (first < data_at) return all;
  return {.first = std::min((first - data_at) / header.grain_bytes, all.end),
          .end = std::min((end - data_at + header.grain_bytes - 1) / header.grain_bytes, all.end)};
}

void CowChecker::stepped(const SimStep& step) {
  if (snapshots_.empty() || step.op->kind == IoOpKind::kRead) return;
  ++counters_.crash_points;
  const Range range = touched(step);
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    const auto gone = [this](const KeptSnapshot& one) { return !may_be_whole(one); };
    if (snapshots_[i].deleted ||
        std::any_of(snapshots_.begin() + static_cast<ptrdiff_t>(i), snapshots_.end(), gone)) {
      continue;
    }
    for (uint64_t grain = range.first; grain < range.end; ++grain) check_grain(i, grain);
  }
}

bool CowChecker::may_be_whole(const KeptSnapshot& newer) const {
  if (newer.given_up) return false;
  bool whole = false;
  visit(newer, kCowStateAt, [&](const std::byte* bytes) {
    CowStateRecord record;
    std::memcpy(&record, bytes, sizeof(record));
    whole |= record.condition != static_cast<uint32_t>(CowCondition::kBroken);
  });
  return whole;
}

CowChecker::Recorded CowChecker::recorded(const KeptSnapshot& snapshot, uint64_t grain) const {
  Recorded recorded;
  visit(snapshot, kCowTableAt + grain / 8, [&](const std::byte* bytes) {
    const bool set = (static_cast<unsigned>(*bytes) >> (grain % 8) & 1U) != 0;
    (set ? recorded.maybe : recorded.maybe_not) = true;
  });
  return recorded;
}

void CowChecker::check_grain(size_t index, uint64_t grain) {
  const KeptSnapshot& snapshot = snapshots_[index];
  const uint64_t grain_bytes = snapshot.header.grain_bytes;
  const uint64_t begin = grain * grain_bytes;
  const uint64_t end = std::min(begin + grain_bytes, snapshot.header.base_bytes);
  const uint32_t size = checker_.device(0).block_size();
  for (size_t i = index; i < snapshots_.size(); ++i) {
    const Recorded has = recorded(snapshots_[i], grain);
    const uint64_t data_at = cow_data_at(snapshots_[i].header);
    const uint32_t step = snapshots_[i].overlay->block_size();
    // A block of the overlay may be several of the disk, or a part of one: the disk's are checked
    // whole, and these are as large or larger.
    for (uint64_t at = begin; has.maybe && at < end; at += step) {
      visit(snapshots_[i], data_at + at, [&](const std::byte* bytes) {
        for (uint64_t inside = 0; inside < step && at + inside < end; inside += size) {
          check_block(snapshot, static_cast<uint32_t>((at + inside) / size), bytes + inside,
                      "in the overlay");
        }
      });
    }
    if (!has.maybe_not) return;
  }
  for (uint64_t at = begin; at < end; at += size) {
    const auto block = static_cast<uint32_t>(at / size);
    engine_->visit_outcomes(0, block, [&](const std::byte* bytes, uint64_t) {
      check_block(snapshot, block, bytes, "on the disk");
    });
  }
}

void CowChecker::check_block(const KeptSnapshot& snapshot, uint32_t block, const std::byte* bytes,
                             const char* where) {
  ++counters_.outcomes;
  const BlockValue seen = value_in(bytes, checker_.device(0).block_size());
  const std::vector<BlockValue>& content = snapshot.content[block];
  if (std::find(content.begin(), content.end(), seen) != content.end()) return;
  checker_.violate(
      "I9", 0,
      fmt::format("snapshot {}, block {}, {}: expected {}; seen {}", snapshot.header.uuid, block,
                  where, describe(content.front()), describe(seen)));
}

void CowChecker::check_read(const KeptSnapshot& snapshot, uint32_t first,
                            std::span<const std::byte> bytes) {
  const uint32_t size = checker_.device(0).block_size();
  for (uint64_t done = 0; done < bytes.size(); done += size) {
    ++counters_.blocks_read;
    check_block(snapshot, first + static_cast<uint32_t>(done / size), bytes.data() + done,
                "by a reader");
  }
}

}  // namespace plumb::simulation
