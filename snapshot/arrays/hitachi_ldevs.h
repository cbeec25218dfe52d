// The LDEVs of a Hitachi array, and which of them plumb made, by the state file.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/hitachi_pairs.h"
#include "snapshot/arrays/hitachi_rest.h"
#include "snapshot/arrays/host_luns.h"
#include "snapshot/arrays/state_file.h"

namespace plumb {

class HitachiLdevs {
 public:
  using Entries = std::vector<HitachiEntry>;

  HitachiLdevs(HitachiConfig config, const std::string& password, HostLuns host);

  const HitachiConfig& config() const { return config_; }
  const HitachiRest& rest() const { return rest_; }
  const HostLuns& host() const { return host_; }
  Error error(const std::string& text) const { return rest_.error(text); }
  const HitachiPairs& pairs(const HitachiEntry& entry) const {
    return entry.shadow_image ? *shadow_image_ : *thin_image_;
  }

  Result<Entries> entries() const;
  Result<> mark_whole(const std::vector<std::string>& ids) const;
  // The entry of an id; none when it is gone, or the administrator's.
  Result<std::optional<HitachiEntry>> entry(const std::string& id) const;
  Result<HitachiEntry> whole_snapshot(const std::string& id) const;

  Result<HitachiLdev> ldev(uint64_t number) const {
    return rest_.get(fmt::format("/ldevs/{}", number), hitachi_answer::ldev);
  }
  // The LDEV of a volume's id, which may be a clone.
  Result<HitachiLdev> volume(const std::string& id) const;

  // Writes down the entries, which are of one group, before anything is made of them: new LDEVs,
  // which it makes; or, for snapshots, the mirrors of exactly these volumes that were kept. Errors:
  // a name that is taken; nothing stays of the entries then.
  Result<> reserve(Entries& fresh) const;
  // What is there of an entry goes: paths, pair, LDEV; then the entry.
  Result<> drop(const HitachiEntry& entry) const;
  // The same as far as it may go, or is to go, now; with what it kept from going.
  Result<> remove(const HitachiEntry& entry) const;

  Result<> add_paths(const HitachiLdev& ldev) const;
  Result<> remove_paths(const HitachiLdev& ldev) const;

 private:
  template <typename Change>
  Result<> change(Change change_entries) const;
  Result<Entries> parse(const nlohmann::json& state) const;
  Result<bool> take_mirrors(Entries& fresh) const;
  Result<> drop_mirrors_of(const std::vector<uint64_t>& ldevs) const;
  Result<> make(const HitachiEntry& entry) const;
  Result<> retire(const HitachiEntry& entry) const;

  const HitachiConfig config_;
  const HitachiRest rest_;
  const HostLuns host_;
  const StateFile file_;
  const std::unique_ptr<HitachiPairs> thin_image_;
  const std::unique_ptr<HitachiPairs> shadow_image_;
};

}  // namespace plumb
