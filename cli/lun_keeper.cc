#include "cli/lun_keeper.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "blockdev/file_device.h"

namespace plumb {
namespace {

using State = LunFinding::State;

// "2:0:0:1" of the SCSI device behind a block device's sysfs folder.
std::string scsi_address(const std::string& folder) {
  std::error_code error;
  const auto device = std::filesystem::canonical(folder + "/device", error);
  const std::string name = error ? "" : device.filename().string();
  return std::count(name.begin(), name.end(), ':') == 3 ? name : "";
}

LunFinding found(State state, std::string reason) {
  return {.state = state, .reason = std::move(reason), .source = {}};
}

State state_of(LunState state) {
  switch (state) {
    case LunState::kWell:
      return State::kWell;
    case LunState::kSilent:
      return State::kSilent;
    case LunState::kLost:
      return State::kLost;
    case LunState::kOther:
      return State::kOther;
  }
  return State::kLost;
}

}  // namespace

Result<> LunKeeper::watch(KeptLun lun, dev_t number) {
  const LunId id = TRY(resolver_.identity_of(number));
  if (id != lun.wwn) {
    return failed("disk {} is {}, not {}", lun.disk, id.text(), lun.wwn.text());
  }
  const std::vector<Lun> all = resolver_.list();
  const auto at = std::ranges::find(all, number, &Lun::number);
  if (at == all.end()) return failed("the LUN of disk {} is not on this host", lun.disk);
  const std::string folder = resolver_.folder_of(number);
  const std::string disk = lun.disk;
  kept_.insert_or_assign(disk, Kept{.lun = std::move(lun),
                                    .number = number,
                                    .sequence = read_attribute(folder + "/diskseq"),
                                    .address = scsi_address(folder),
                                    .size_bytes = at->size_bytes,
                                    .logical_block_size = at->logical_block_size,
                                    .read_only = at->read_only});
  return {};
}

LunFinding LunKeeper::look(const std::string& disk, bool claim) {
  const auto at = kept_.find(disk);
  if (at == kept_.end()) return found(State::kLost, "nobody keeps its LUN");
  return find(at->second, claim);
}

LunFinding LunKeeper::find(Kept& kept, bool claim) const {
  LunFinding finding = present(kept) ? look_in_place(kept) : look_elsewhere(kept, claim);
  kept.state = finding.state;
  return finding;
}

std::vector<LunKeeper::News> LunKeeper::news() {
  std::vector<News> all;
  for (auto& [disk, kept] : kept_) {
    const State before = kept.state;
    LunFinding finding = find(kept, false);
    if (finding.state != before || finding.grown) all.push_back({disk, std::move(finding)});
  }
  return all;
}

// Whether the block device is still there, and not another one with its number.
bool LunKeeper::present(const Kept& kept) const {
  const std::string folder = resolver_.folder_of(kept.number);
  return !read_attribute(folder + "/dev").empty() &&
         read_attribute(folder + "/diskseq") == kept.sequence;
}

LunFinding LunKeeper::look_in_place(Kept& kept) const {
  Result<LunId> id = resolver_.identity_of(kept.number);
  if (!id) return found(State::kOther, id.error().message);
  const std::vector<Lun> all = resolver_.list();
  const auto at = std::ranges::find(all, kept.number, &Lun::number);
  if (at == all.end()) return found(State::kLost, "its device is going away");
  if (*id != kept.lun.wwn) {
    return found(State::kOther,
                 fmt::format("{} is {} now", resolver_.device_path(*at), id->text()));
  }
  LunHealth health = examine_lun(resolver_, *at, inquire_);
  if (health.state != LunState::kWell) {
    return found(state_of(health.state), std::move(health.reason));
  }
  if (auto change = change_of(kept, *at)) return found(State::kOther, std::move(*change));
  const uint64_t before_bytes = std::exchange(kept.size_bytes, at->size_bytes);
  return {.grown = at->size_bytes > before_bytes, .source = {}};
}

LunFinding LunKeeper::look_elsewhere(const Kept& kept, bool claim) const {
  Result<Lun> lun = resolver_.resolve(kept.lun.wwn);
  if (!lun) {
    if (auto other = successor_of(kept)) return found(State::kOther, std::move(*other));
    return found(State::kLost, lun.error().message);
  }
  LunHealth health = examine_lun(resolver_, *lun, inquire_);
  if (health.state != LunState::kWell) {
    return found(state_of(health.state), std::move(health.reason));
  }
  if (auto change = change_of(kept, *lun)) return found(State::kOther, std::move(*change));
  if (!claim) {
    return found(State::kLost, fmt::format("it has come back as {}", resolver_.device_path(*lun)));
  }
  Result<ClaimedLun> claimed = claim_lun(resolver_, kept.lun.wwn, kept.lun.options);
  if (!claimed) return found(State::kLost, claimed.error().message);
  DiskSource source = source_of(resolver_, std::move(claimed).value(), kept.lun.options);
  Result<FileFacts> facts = FileDevice::examine({.fd = source.fd.get(),
                                                 .label = source.label,
                                                 .read_only = kept.lun.options.read_only,
                                                 .discard = kept.lun.discard});
  if (!facts) return found(State::kLost, facts.error().message);
  source.facts = *facts;
  return {.state = State::kNew, .reason = {}, .source = std::move(source)};
}

// What of the LUN is not as it was, and makes it unfit to go on with.
std::optional<std::string> LunKeeper::change_of(const Kept& kept, const Lun& lun) const {
  if (lun.size_bytes < kept.size_bytes) {
    return fmt::format("it has shrunk from {} to {} bytes", kept.size_bytes, lun.size_bytes);
  }
  if (lun.logical_block_size != kept.logical_block_size) {
    return fmt::format("its blocks of {} bytes have become {} bytes", kept.logical_block_size,
                       lun.logical_block_size);
  }
  if (lun.read_only && !kept.read_only) return "it has become read-only";
  return std::nullopt;
}

// Another LUN at the SCSI address where it was.
std::optional<std::string> LunKeeper::successor_of(const Kept& kept) const {
  if (kept.address.empty()) return std::nullopt;
  for (const Lun& lun : resolver_.list()) {
    const std::string folder = resolver_.folder_of(lun.number);
    if (scsi_address(folder) != kept.address) continue;
    return fmt::format("{} is at its place now, as {}", lun.id.text(), resolver_.device_path(lun));
  }
  return std::nullopt;
}

}  // namespace plumb
