#include "blockdev/cow_reader.h"

#include <algorithm>

namespace plumb {
namespace {

// Read from the disk at once, before the table is looked at again.
constexpr uint64_t kRunBytes = 1U << 20U;

Error broken(const CowHeader& header, const std::string& reason) {
  return failed("snapshot {} is broken: {}", header.uuid, reason);
}

}  // namespace

Result<std::unique_ptr<CowReader>> CowReader::open(Config config) {
  ENSURE(config.base != nullptr && !config.overlays.empty());
  std::unique_ptr<CowReader> reader(new CowReader(std::move(config)));
  for (std::unique_ptr<CowFile>& file : reader->config_.overlays) {
    TRY(reader->add(std::move(file)));
  }
  reader->config_.overlays.clear();
  TRY(reader->load_tables(0));
  const CowOverlay& newest = reader->overlays_.back();
  if (reader->config_.base_now.has_value()) {
    TRY(check_cow_base(newest, *reader->config_.base_now));
  }
  return reader;
}

Result<> CowReader::add(std::unique_ptr<CowFile> file) {
  // Asked first: a VM that lets it go meanwhile has said so in what is read next.
  const bool writer = TRY(file->has_writer());
  CowOverlay overlay = TRY(load_cow_overlay(*file));
  if (overlay.state.condition == CowCondition::kBroken) {
    return broken(overlay.header, overlay.state.reason);
  }
  if (!overlays_.empty()) {
    const CowHeader& older = overlays_.back().header;
    const CowHeader& own = overlay.header;
    if (overlay.older != older.uuid || own.disk != older.disk ||
        own.grain_bytes != older.grain_bytes || own.base_bytes < older.base_bytes) {
      return failed("{} does not follow snapshot {}", file->label(), older.uuid);
    }
  }
  had_writer_ = writer;
  files_.push_back(std::move(file));
  overlays_.push_back(std::move(overlay));
  return {};
}

// Once more, of all from `first` on but the newest. A snapshot between two of them may have been
// merged into the older one, which was whole before the younger one's link said that they are
// neighbours: so it is the table as it is after the link was read that counts.
Result<> CowReader::load_tables(size_t first) {
  for (size_t i = first; i + 1 < files_.size(); ++i) {
    overlays_[i] = TRY(load_cow_overlay(*files_[i]));
  }
  return {};
}

Result<> CowReader::read(uint64_t offset, std::span<std::byte> to) {
  if (offset > size_bytes() || to.size() > size_bytes() - offset) {
    return failed("{} bytes at {} are outside snapshot {} of {}", to.size(), offset, header().uuid,
                  size_bytes());
  }
  const uint64_t grain_bytes = header().grain_bytes;
  while (!to.empty()) {
    // Grains next to each other that are in the same place.
    const uint64_t first = offset / grain_bytes;
    const size_t place = overlay_of(first);
    const uint64_t most = place == files_.size() ? kRunBytes : to.size();
    uint64_t bytes = std::min<uint64_t>(to.size(), grain_bytes - offset % grain_bytes);
    while (bytes < std::min<uint64_t>(to.size(), most) &&
           overlay_of((offset + bytes) / grain_bytes) == place) {
      bytes = std::min<uint64_t>(to.size(), bytes + grain_bytes);
    }
    const std::span<std::byte> run = to.first(bytes);
    if (place == files_.size()) {
      TRY(read_from_base(offset, run));
    } else {
      TRY(files_[place]->read(cow_data_at(overlays_[place].header) + offset, run));
    }
    offset += bytes;
    to = to.subspan(bytes);
  }
  return {};
}

// The first overlay that is known to have it; their number when none is.
size_t CowReader::overlay_of(uint64_t grain) const {
  const auto found = std::find_if(overlays_.begin(), overlays_.end(), [grain](const auto& one) {
    return grain < one.table.grains() && one.table.has(grain);
  });
  return static_cast<size_t>(found - overlays_.begin());
}

Result<> CowReader::read_from_base(uint64_t offset, std::span<std::byte> to) {
  TRY(config_.base->read(offset, to));
  const uint64_t grain_bytes = header().grain_bytes;
  const uint64_t end = offset + to.size();
  TRY(look_again(offset / grain_bytes, (end - 1) / grain_bytes + 1));
  for (uint64_t at = offset; at < end;) {
    const uint64_t bytes = std::min(end - at, grain_bytes - at % grain_bytes);
    const size_t place = overlay_of(at / grain_bytes);
    if (place < files_.size()) {
      TRY(files_[place]->read(cow_data_at(overlays_[place].header) + at,
                              to.subspan(at - offset, bytes)));
    }
    at += bytes;
  }
  return {};
}

// Learns what of the grains was recorded since; without an error, the others are on the disk as the
// snapshot has them, or were when this began.
Result<> CowReader::look_again(uint64_t first, uint64_t end) {
  for (;;) {
    for (uint64_t page = first / kCowGrainsPerPage; page * kCowGrainsPerPage < end; ++page) {
      TRY(load_page(page));
    }
    CowFile& file = *files_.back();
    const CowHeader& own = overlays_.back().header;
    CowPage page;
    TRY(file.read(kCowStateAt, page));
    const CowState state = TRY(parse_cow_state(page, own.uuid, file.label()));
    if (state.condition == CowCondition::kBroken) return broken(own, state.reason);
    const bool followed = state.condition == CowCondition::kSealed && TRY(follow());
    if (!followed) return check_writer(state);
  }
}

Result<> CowReader::load_page(uint64_t page) {
  CowFile& file = *files_.back();
  CowPage bytes;
  TRY(file.read(kCowTableAt + page * kCowPageBytes, bytes));
  return overlays_.back().table.load(page, bytes, file.label());
}

// Whether what is written goes to the last overlay.
Result<> CowReader::check_writer(const CowState& state) {
  if (state.condition == CowCondition::kClean) return {};
  const bool writer = TRY(files_.back()->has_writer());
  if (writer || (!had_writer_ && state.opens == overlays_.back().state.opens)) return {};
  return failed("the VM that keeps snapshot {} has ended; open it again",
                overlays_.back().header.uuid);
}

// Another snapshot was made, or was to be; false when there is none.
Result<bool> CowReader::follow() {
  const std::string& uuid = overlays_.back().header.uuid;
  if (!config_.newer) return failed("a snapshot newer than {} was made; open it again", uuid);
  std::unique_ptr<CowFile> file = TRY(config_.newer(uuid));
  if (file == nullptr) return false;
  const size_t last = files_.size() - 1;
  TRY(add(std::move(file)));
  TRY(load_tables(last));
  return true;
}

}  // namespace plumb
