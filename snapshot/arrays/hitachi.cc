#include "snapshot/arrays/hitachi.h"

#include <algorithm>
#include <charconv>
#include <functional>

#include "base/secret_file.h"
#include "rdm/lun_id.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/hitachi_ldevs.h"

namespace plumb {
namespace {

using Entries = HitachiLdevs::Entries;

constexpr uint64_t kSizeGranule = 4096;

class PreparedHitachi final : public PreparedSnapshot {
 public:
  PreparedHitachi(const HitachiLdevs& ldevs, Entries entries)
      : ldevs_(ldevs), entries_(std::move(entries)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedHitachi() override {
    if (finished_) return;
    for (const HitachiEntry& one : entries_) static_cast<void>(ldevs_.drop(one).ok());
  }

  // So that the split is all that is left.
  Result<> follow() const { return pairs().follow(entries_); }

  Result<> take() override { return pairs().split(entries_.front().group); }

  Result<std::vector<ArraySnapshot>> finish() override {
    TRY(pairs().wait_until_split(entries_));
    std::vector<ArraySnapshot> made;
    std::vector<std::string> ids;
    for (const HitachiEntry& one : entries_) {
      made.push_back({one.id(), one.name, one.of_id, one.size_bytes, true});
      ids.push_back(one.id());
    }
    TRY(ldevs_.mark_whole(ids));
    finished_ = true;
    return made;
  }

 private:
  const HitachiPairs& pairs() const { return ldevs_.pairs(entries_.front()); }

  const HitachiLdevs& ldevs_;
  const Entries entries_;
  bool finished_ = false;
};

class HitachiArray final : public ArrayProvider {
 public:
  HitachiArray(const HitachiConfig& config, const std::string& password, HostLuns host)
      : ldevs_(config, password, std::move(host)) {}

  const std::string& name() const override { return ldevs_.config().name; }
  Abilities abilities() const override {
    return {.group = true, .instant = true, .provisions = true, .writable_snapshots = true};
  }

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
  Result<HitachiPool> pool(unsigned number) const {
    return ldevs_.rest().get(fmt::format("/pools/{}", number), hitachi_answer::pool);
  }
  // Reserves, makes and fills one volume; what fails leaves nothing.
  Result<ArrayVolume> new_volume(HitachiEntry entry,
                                 const std::function<Result<>(const HitachiEntry&)>& fill) const;

  const HitachiLdevs ldevs_;
};

// The last four digits of an identity are the LDEV's number; that it is that LDEV's the array says.
Result<std::optional<ArrayVolume>> HitachiArray::find(const DiskMedium& medium) {
  constexpr std::string_view kOurs = "naa.60060e8";
  constexpr size_t kDigits = 4;
  if (!medium.wwn.starts_with(kOurs) || medium.wwn.size() != 36) {
    return std::optional<ArrayVolume>();
  }
  uint64_t number = 0;
  const char* end = medium.wwn.data() + medium.wwn.size();
  std::from_chars(end - kDigits, end, number, 16);
  Result<HitachiLdev> found = ldevs_.ldev(number);
  if (!found && found.error().kind == ErrorKind::kNotFound) return std::optional<ArrayVolume>();
  if (!found) return std::move(found).error();
  if (!found->defined || found->wwn != medium.wwn) return std::optional<ArrayVolume>();
  for (const HitachiEntry& one : TRY(ldevs_.entries())) {
    if (one.ldev != number || one.label != found->label) continue;
    return std::optional<ArrayVolume>({one.id(), one.name, found->size_bytes, one.whole});
  }
  const std::string id = std::to_string(number);
  return std::optional<ArrayVolume>(
      {id, found->label.empty() ? id : found->label, found->size_bytes, true});
}

Result<std::unique_ptr<PreparedSnapshot>> HitachiArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  Entries entries;
  for (const SnapshotRequest& request : requests) {
    const HitachiLdev of = TRY(ldevs_.volume(request.volume.id));
    entries.push_back({.name = request.name,
                       .label = {},
                       .group = {},
                       .snapshot = true,
                       .of = of.number,
                       .of_id = request.volume.id,
                       .size_bytes = of.size_bytes});
  }
  TRY(ldevs_.reserve(entries));
  auto prepared = std::make_unique<PreparedHitachi>(ldevs_, std::move(entries));
  TRY(prepared->follow());
  return prepared;
}

Result<ArrayVolume> HitachiArray::new_volume(
    HitachiEntry entry, const std::function<Result<>(const HitachiEntry&)>& fill) const {
  Entries entries = {std::move(entry)};
  TRY(ldevs_.reserve(entries));
  const HitachiEntry& made = entries.front();
  Result<> filled = fill(made);
  if (filled) filled = ldevs_.mark_whole({made.id()});
  if (filled) return ArrayVolume{made.id(), made.name, made.size_bytes, true};
  static_cast<void>(ldevs_.drop(made).ok());
  return std::move(filled).error();
}

Result<ArrayVolume> HitachiArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(this->name(), name));
  const HitachiEntry from = TRY(ldevs_.whole_snapshot(snapshot_id));
  const HitachiEntry entry{
      .name = name, .label = {}, .group = {}, .of_id = {}, .size_bytes = from.size_bytes};
  return new_volume(entry, [&](const HitachiEntry& to) { return ldevs_.pairs(to).copy(from, to); });
}

Result<ArrayVolume> HitachiArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(this->name(), name));
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return ldevs_.error(fmt::format("a volume of {} bytes cannot be made; give a multiple of {}",
                                    size_bytes, kSizeGranule));
  }
  const HitachiEntry entry{
      .name = name, .label = {}, .group = {}, .of_id = {}, .size_bytes = size_bytes};
  return new_volume(entry, [](const HitachiEntry&) { return Result<>(); });
}

Result<> HitachiArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const HitachiEntry from = TRY(ldevs_.whole_snapshot(snapshot_id));
  const HitachiLdev to = TRY(ldevs_.volume(volume_id));
  if (from.of_id != volume_id || from.of != to.number) {
    return ldevs_.error(fmt::format("{} is no snapshot of {}", snapshot_id, volume_id));
  }
  TRY(ldevs_.pairs(from).restore(from));
  if (!to.wwn.empty()) ldevs_.host().forget_content(TRY(LunId::parse(to.wwn)));
  return {};
}

Result<MappedVolume> HitachiArray::map(const std::string& id) {
  const HitachiLdev ldev = TRY(ldevs_.volume(id));
  if (ldev.wwn.empty()) {
    return ldevs_.error(fmt::format("it does not tell the identity of LDEV {}", ldev.number));
  }
  TRY(ldevs_.add_paths(ldev));
  Result<std::string> device = ldevs_.host().appear(TRY(LunId::parse(ldev.wwn)));
  if (!device) return ldevs_.rest().of_array(device.error());
  return MappedVolume{ldev.wwn, std::move(*device)};
}

// An LDEV of the administrator's was mapped before, and stays so.
Result<> HitachiArray::unmap(const std::string& id) {
  const std::optional<HitachiEntry> ours = TRY(ldevs_.entry(id));
  if (!ours) return {};
  const HitachiLdev ldev = TRY(ldevs_.ldev(ours->ldev));
  if (!ldev.defined || ldev.label != ours->label) return {};
  return ldevs_.remove_paths(ldev);
}

Result<> HitachiArray::remove(const std::string& id) {
  const std::optional<HitachiEntry> ours = TRY(ldevs_.entry(id));
  if (ours) return ldevs_.remove(*ours);
  if (id.find('@') != std::string::npos) return {};
  return ldevs_.error(fmt::format("LDEV {} was not made here, and is not removed", id));
}

Result<std::vector<ArraySnapshot>> HitachiArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> found;
  for (const HitachiEntry& one : TRY(ldevs_.entries())) {
    if (!one.snapshot || one.retired || !one.name.starts_with(prefix)) continue;
    found.push_back({one.id(), one.name, one.of_id, one.size_bytes, one.whole});
  }
  return found;
}

Result<std::vector<ArrayVolume>> HitachiArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> found;
  for (const HitachiEntry& one : TRY(ldevs_.entries())) {
    if (one.snapshot || one.retired || !one.name.starts_with(prefix)) continue;
    found.push_back({one.id(), one.name, one.size_bytes, one.whole});
  }
  return found;
}

Result<ArrayCapacity> HitachiArray::capacity() {
  const HitachiPool found = TRY(pool(ldevs_.config().volume_pool));
  return ArrayCapacity{found.total_bytes, found.free_bytes};
}

Result<> HitachiArray::health() {
  std::vector<unsigned> pools = {ldevs_.config().volume_pool};
  if (!ldevs_.config().shadow_image) pools.push_back(ldevs_.config().snapshot_pool.value());
  for (const unsigned number : pools) {
    const HitachiPool found = TRY(pool(number));
    if (found.status == "POLN" && found.free_bytes != 0) continue;
    return ldevs_.error(fmt::format("pool {} is not well ({}, {} bytes free)", number, found.status,
                                    found.free_bytes));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<ArrayProvider>> open_hitachi_array(const HitachiConfig& config,
                                                          HostLuns host) {
  Result<std::string> password = read_secret(config.password_file);
  if (!password) return failed("array {}: {}", config.name, password.error().message);
  return std::make_unique<HitachiArray>(config, *password, std::move(host));
}

}  // namespace plumb
