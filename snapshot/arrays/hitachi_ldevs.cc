#include "snapshot/arrays/hitachi_ldevs.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/uuid.h"
#include "rdm/lun_id.h"
#include "snapshot/arrays/array_names.h"

namespace plumb {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HitachiEntry, name, label, group, ldev, snapshot, of, of_id,
                                   size_bytes, whole, shadow_image, mirror_unit, retired)

namespace {

using nlohmann::json;
using Entries = HitachiLdevs::Entries;

constexpr size_t kLabelDigits = 23;   // of 29 bytes of a copy group's name, after "plumb-"
constexpr uint64_t kMirrorUnits = 3;  // ShadowImage pairs that a primary volume can have

// A label, or the name of a group, that nobody else has.
Result<std::string> new_label() {
  std::string digits = TRY(Uuid::random()).text();
  std::erase(digits, '-');
  return "plumb-" + digits.substr(0, kLabelDigits);
}

std::vector<uint64_t> primaries(const Entries& snapshots) {
  std::vector<uint64_t> all;
  for (const HitachiEntry& one : snapshots) all.push_back(one.of);
  return all;
}

bool is_mirror(const HitachiEntry& entry) { return entry.snapshot && entry.retired; }

// What of the other entries keeps a volume's LDEV from going.
bool has_snapshots(const Entries& all, uint64_t ldev) {
  return std::ranges::any_of(
      all, [ldev](const HitachiEntry& one) { return one.snapshot && one.of == ldev; });
}

// The pairs of a copy group have one mirror unit; nothing when none is free on all its volumes.
std::optional<uint64_t> free_mirror_unit(const Entries& all, const Entries& fresh) {
  for (uint64_t unit = 0; unit < kMirrorUnits; ++unit) {
    const bool used = std::ranges::any_of(all, [&](const HitachiEntry& one) {
      return one.snapshot && one.shadow_image && one.mirror_unit == unit &&
             std::ranges::find(fresh, one.of, &HitachiEntry::of) != fresh.end();
    });
    if (!used) return unit;
  }
  return std::nullopt;
}

}  // namespace

HitachiLdevs::HitachiLdevs(HitachiConfig config, const std::string& password, HostLuns host)
    : config_(std::move(config)),
      rest_(config_, password),
      host_(std::move(host)),
      file_(config_.name, config_.state_path, "hitachi"),
      thin_image_(thin_image_pairs(config_, rest_)),
      shadow_image_(shadow_image_pairs(config_, rest_)) {}

Result<Entries> HitachiLdevs::entries() const { return parse(TRY(file_.read())); }

Result<Entries> HitachiLdevs::parse(const json& state) const {
  try {
    return state.value("ldevs", Entries());
  } catch (const json::exception& cause) {
    return error(fmt::format("{} is damaged: {}", file_.path(), cause.what()));
  }
}

template <typename Change>
Result<> HitachiLdevs::change(Change change_entries) const {
  StateFile::Locked locked = TRY(file_.lock());
  Entries all = TRY(parse(locked.json()));
  TRY(change_entries(all));
  locked.json()["ldevs"] = all;
  Result<> stored = locked.store();
  if (stored) return stored;
  return rest_.of_array(stored.error());
}

Result<> HitachiLdevs::mark_whole(const std::vector<std::string>& ids) const {
  return change([&ids](Entries& all) -> Result<> {
    for (HitachiEntry& one : all) {
      if (std::ranges::find(ids, one.id()) != ids.end()) one.whole = true;
    }
    return {};
  });
}

Result<std::optional<HitachiEntry>> HitachiLdevs::entry(const std::string& id) const {
  const Entries all = TRY(entries());
  const auto found = std::ranges::find(all, id, &HitachiEntry::id);
  return found == all.end() ? std::optional<HitachiEntry>() : std::optional(*found);
}

Result<HitachiEntry> HitachiLdevs::whole_snapshot(const std::string& id) const {
  const std::optional<HitachiEntry> found = TRY(entry(id));
  if (found && found->snapshot && found->whole) return *found;
  return error(fmt::format("there is no whole snapshot {}", id));
}

Result<HitachiLdev> HitachiLdevs::volume(const std::string& id) const {
  uint64_t number = 0;
  const auto [end, failure] = std::from_chars(id.data(), id.data() + id.size(), number);
  const bool plain = failure == std::errc() && end == id.data() + id.size();
  const std::optional<HitachiEntry> ours = TRY(entry(id));
  if (ours && !ours->whole) return error(fmt::format("{} was only begun", id));
  if (!plain && !ours) return error(fmt::format("there is no volume {}", id));
  HitachiLdev found = TRY(ldev(ours ? ours->ldev : number));
  if (found.defined && (!ours || found.label == ours->label)) return found;
  return error(fmt::format("there is no volume {}", id));
}

Result<> HitachiLdevs::reserve(Entries& fresh) const {
  const bool snapshots = fresh.front().snapshot;
  if (snapshots) {
    if (config_.shadow_image && TRY(take_mirrors(fresh))) return {};
    TRY(drop_mirrors_of(primaries(fresh)));
  }
  for (HitachiEntry& one : fresh) one.label = TRY(new_label());
  const std::string group = TRY(new_label());
  const auto undefined =
      TRY(rest_.get("/ldevs?ldevOption=undefined&count=1000", hitachi_answer::ldevs));
  Result<> reserved = change([&](Entries& all) -> Result<> {
    const std::optional<uint64_t> unit = free_mirror_unit(all, fresh);
    if (snapshots && config_.shadow_image && !unit) {
      return error(fmt::format(
          "a volume has {} ShadowImage copies at most, and one of these has them: delete a "
          "snapshot of it",
          kMirrorUnits));
    }
    auto free = undefined.begin();
    for (HitachiEntry& one : fresh) {
      if (std::ranges::find(all, one.name, &HitachiEntry::name) != all.end()) {
        return name_taken(config_.name, one.name);
      }
      while (free != undefined.end() &&
             std::ranges::find(all, free->number, &HitachiEntry::ldev) != all.end()) {
        ++free;
      }
      if (free == undefined.end()) return error("it has no free LDEV numbers");
      one.ldev = free->number;
      one.group = group;
      one.shadow_image = config_.shadow_image;
      one.mirror_unit = unit.value_or(0);
      all.push_back(one);
    }
    return {};
  });
  for (auto one = fresh.begin(); reserved && one != fresh.end(); ++one) {
    reserved = make(*one);
    if (reserved) continue;
    // Its errors have nobody to go to; lists show what is left.
    for (const HitachiEntry& begun : fresh) static_cast<void>(drop(begun).ok());
  }
  return reserved;
}

// The kept mirrors of exactly the volumes that are asked for, which were split together.
Result<bool> HitachiLdevs::take_mirrors(Entries& fresh) const {
  bool taken = false;
  TRY(change([&](Entries& all) -> Result<> {
    for (const HitachiEntry& one : fresh) {
      if (std::ranges::find(all, one.name, &HitachiEntry::name) != all.end()) {
        return name_taken(config_.name, one.name);
      }
    }
    for (const HitachiEntry& first : all) {
      if (!is_mirror(first)) continue;
      std::vector<HitachiEntry*> group;
      for (HitachiEntry& one : all) {
        if (one.group == first.group) group.push_back(&one);
      }
      const auto mirror_of = [&group](const HitachiEntry& wanted) {
        const auto found = std::ranges::find_if(group, [&wanted](const HitachiEntry* one) {
          return is_mirror(*one) && one->of == wanted.of && one->of_id == wanted.of_id &&
                 one->size_bytes == wanted.size_bytes;
        });
        return found == group.end() ? nullptr : *found;
      };
      taken = group.size() == fresh.size() && std::ranges::all_of(fresh, mirror_of);
      if (!taken) continue;
      for (HitachiEntry& wanted : fresh) {
        HitachiEntry& mirror = *mirror_of(wanted);
        mirror.name = wanted.name;
        mirror.retired = false;
        wanted = mirror;
      }
      return {};
    }
    return {};
  }));
  return taken;
}

Result<> HitachiLdevs::drop_mirrors_of(const std::vector<uint64_t>& ldevs) const {
  for (const HitachiEntry& one : TRY(entries())) {
    if (is_mirror(one) && std::ranges::find(ldevs, one.of) != ldevs.end()) TRY(drop(one));
  }
  return {};
}

Result<> HitachiLdevs::make(const HitachiEntry& entry) const {
  const json body = {{"ldevId", entry.ldev},
                     {"poolId", config_.volume_pool},
                     {"blockCapacity", entry.size_bytes / 512}};
  TRY(rest_.send("POST", "/ldevs", body, rest_.soon()));
  return rest_.send("PATCH", fmt::format("/ldevs/{}", entry.ldev), {{"label", entry.label}},
                    rest_.soon());
}

Result<> HitachiLdevs::drop(const HitachiEntry& entry) const {
  const HitachiLdev found = TRY(ldev(entry.ldev));
  const bool ours = found.defined && found.label == entry.label;
  if (found.defined && !ours && found.label.empty()) {
    return error(fmt::format(
        "LDEV {} should be {}, and has no label: if nobody uses it, set its label to {} and try "
        "again",
        entry.ldev, entry.name, entry.label));
  }
  if (ours) {
    TRY(remove_paths(found));
    TRY(pairs(entry).dissolve(entry));
    TRY(rest_.send("DELETE", fmt::format("/ldevs/{}", entry.ldev), nullptr, rest_.soon()));
  }
  return change([&entry](Entries& all) -> Result<> {
    std::erase_if(all, [&entry](const HitachiEntry& one) { return one.label == entry.label; });
    return {};
  });
}

Result<> HitachiLdevs::retire(const HitachiEntry& entry) const {
  const HitachiLdev found = TRY(ldev(entry.ldev));
  if (found.defined && found.label == entry.label) TRY(remove_paths(found));
  return change([&entry](Entries& all) -> Result<> {
    for (HitachiEntry& one : all) {
      if (one.label != entry.label) continue;
      one.name.clear();
      one.retired = true;
      if (one.snapshot) one.whole = false;
    }
    return {};
  });
}

Result<> HitachiLdevs::remove(const HitachiEntry& entry) const {
  if (entry.snapshot && entry.whole && entry.shadow_image && config_.keep_mirrors) {
    return retire(entry);
  }
  TRY(drop_mirrors_of({entry.ldev}));
  if (has_snapshots(TRY(entries()), entry.ldev)) return retire(entry);
  TRY(drop(entry));
  const Entries left = TRY(entries());
  for (const HitachiEntry& one : left) {
    if (one.retired && !one.snapshot && !has_snapshots(left, one.ldev)) TRY(drop(one));
  }
  return {};
}

Result<> HitachiLdevs::add_paths(const HitachiLdev& ldev) const {
  for (const HitachiHostGroup& group : config_.host_groups) {
    const bool there = std::ranges::any_of(ldev.paths, [&group](const HitachiPath& path) {
      return path.port == group.port && path.host_group == group.number;
    });
    if (there) continue;
    const json body = {
        {"portId", group.port}, {"hostGroupNumber", group.number}, {"ldevId", ldev.number}};
    TRY(rest_.send("POST", "/luns", body, rest_.soon()));
  }
  return {};
}

Result<> HitachiLdevs::remove_paths(const HitachiLdev& ldev) const {
  if (!ldev.wwn.empty()) {
    Result<> gone = host_.vanish(TRY(LunId::parse(ldev.wwn)));
    if (!gone) return rest_.of_array(gone.error());
  }
  for (const HitachiPath& path : ldev.paths) {
    Result<> removed = rest_.send(
        "DELETE",
        fmt::format("/luns/{},{},{}", percent_encoded(path.port), path.host_group, path.lun),
        nullptr, rest_.soon());
    if (!removed && removed.error().kind != ErrorKind::kNotFound) return removed;
  }
  return {};
}

}  // namespace plumb
