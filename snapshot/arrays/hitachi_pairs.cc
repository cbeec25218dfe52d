#include "snapshot/arrays/hitachi_pairs.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

namespace plumb {
namespace {

using nlohmann::json;

constexpr auto kFirstLook = std::chrono::milliseconds(10);
constexpr auto kSlowestLook = std::chrono::milliseconds(2000);

class ThinImagePairs final : public HitachiPairs {
 public:
  using HitachiPairs::HitachiPairs;

  Result<std::vector<HitachiPair>> in_group(const std::string& group) const override {
    return rest_.get("/snapshots?snapshotGroupName=" + percent_encoded(group),
                     hitachi_answer::pairs);
  }

  Result<> follow(std::span<const HitachiEntry> snapshots) const override {
    for (const HitachiEntry& one : snapshots) {
      const json body = {{"snapshotGroupName", one.group},
                         {"snapshotPoolId", config_.snapshot_pool.value()},
                         {"pvolLdevId", one.of},
                         {"svolLdevId", one.ldev},
                         {"isConsistencyGroup", true},
                         {"canCascade", true},
                         {"isDataReductionForceCopy", true}};
      TRY(rest_.send("POST", "/snapshots", body, rest_.soon()));
    }
    return wait_for(snapshots, "PAIR", rest_.soon());
  }

  Result<> split(const std::string& group) const override {
    return rest_.send("POST", "/snapshot-groups/" + group + "/actions/split/invoke", nullptr,
                      HitachiRest::in(config_.take_timeout_ms));
  }

  Result<> wait_until_split(std::span<const HitachiEntry> snapshots) const override {
    return wait_for(snapshots, "PSUS", rest_.soon());
  }

  Result<> copy(const HitachiEntry& from, const HitachiEntry& to) const override {
    const json body = {{"snapshotGroupName", to.group},
                       {"snapshotPoolId", config_.snapshot_pool.value()},
                       {"pvolLdevId", from.ldev},
                       {"svolLdevId", to.ldev},
                       {"isClone", true},
                       {"clonesAutomation", true},
                       {"copySpeed", "medium"},
                       {"isDataReductionForceCopy", true}};
    TRY(rest_.send("POST", "/snapshots", body, rest_.soon()));
    return wait_for({&to, 1}, kCopied, copy_deadline());
  }

  Result<> restore(const HitachiEntry& snapshot) const override {
    const HitachiPair pair = TRY(pair_of(snapshot));
    // Split again when it is done: the snapshot stays.
    TRY(rest_.send("POST", path_of(snapshot, pair) + "/actions/restore/invoke",
                   {{"parameters", {{"autoSplit", true}}}}, rest_.soon()));
    return wait_for({&snapshot, 1}, "PSUS", copy_deadline());
  }

 private:
  std::string path_of(const HitachiEntry&, const HitachiPair& pair) const override {
    return fmt::format("/snapshots/{},{}", pair.primary, pair.mirror_unit);
  }
};

// A copy group is known by three names: its own, and those of its primary and secondary volumes.
class ShadowImagePairs final : public HitachiPairs {
 public:
  using HitachiPairs::HitachiPairs;

  Result<std::vector<HitachiPair>> in_group(const std::string& group) const override {
    auto pairs = rest_.get("/local-clone-copypairs?localCloneCopyGroupId=" + group_id(group),
                           hitachi_answer::shadow_image_pairs);
    if (!pairs && pairs.error().kind == ErrorKind::kNotFound) return std::vector<HitachiPair>();
    return pairs;
  }

  Result<> follow(std::span<const HitachiEntry> snapshots) const override {
    const std::string& group = snapshots.front().group;
    if (!TRY(in_group(group)).empty()) {
      TRY(rest_.send("POST", group_path(group) + "/actions/resync/invoke", kAtFullPace,
                     rest_.soon()));
      return wait_for(snapshots, "PAIR", copy_deadline());
    }
    json more = {{"isConsistencyGroup", true}};
    const HitachiEntry& first = snapshots.front();
    TRY(create(first, first.of, first.mirror_unit, more));
    const HitachiPair made = TRY(pair_of(first));
    if (!made.consistency_group) {
      return rest_.error(
          "it gives the pairs of a copy group no consistency group, without which they are not "
          "split at one instant; see whether it has one to give");
    }
    more["consistencyGroupId"] = *made.consistency_group;
    for (const HitachiEntry& one : snapshots.subspan(1)) {
      TRY(create(one, one.of, std::nullopt, more));
    }
    return wait_for(snapshots, "PAIR", copy_deadline());
  }

  Result<> split(const std::string& group) const override {
    return rest_.send("POST", group_path(group) + "/actions/split/invoke", kSteady,
                      HitachiRest::in(config_.take_timeout_ms));
  }

  // What was written just before the instant is still on its way.
  Result<> wait_until_split(std::span<const HitachiEntry> snapshots) const override {
    return wait_for(snapshots, "PSUS", copy_deadline());
  }

  Result<> copy(const HitachiEntry& from, const HitachiEntry& to) const override {
    // A secondary volume has 0 for its own pair.
    constexpr uint64_t kOfSecondary = 1;
    TRY(create(to, from.ldev, kOfSecondary, {{"autoSplit", true}}));
    TRY(wait_for({&to, 1}, "PSUS", copy_deadline()));
    return dissolve(to);
  }

  // One that was cut short is gone on with: its pair copies back (RCPY), follows (PAIR) or is being
  // split (COPY).
  Result<> restore(const HitachiEntry& snapshot) const override {
    const HitachiPair pair = TRY(pair_of(snapshot));
    const std::string path = path_of(snapshot, pair);
    if (pair.status == "COPY") TRY(wait_until_split({&snapshot, 1}));
    if (pair.status == "COPY" || pair.status == "PSUS") {
      TRY(rest_.send("POST", path + "/actions/restore/invoke", kAtFullPace, rest_.soon()));
    }
    TRY(wait_for({&snapshot, 1}, "PAIR", copy_deadline()));
    TRY(rest_.send("POST", path + "/actions/split/invoke", kSteady, rest_.soon()));
    return wait_for({&snapshot, 1}, "PSUS", copy_deadline());
  }

 private:
  static constexpr unsigned kPace = 10;  // of 15
  inline static const json kSteady = {{"parameters", {{"quickMode", false}}}};
  inline static const json kAtFullPace = {
      {"parameters", {{"quickMode", false}, {"copyPace", kPace}}}};

  static std::string group_id(const std::string& group) {
    return fmt::format("{0},{0}P_,{0}S_", group);
  }
  static std::string group_path(const std::string& group) {
    return "/local-clone-copygroups/" + group_id(group);
  }
  std::string path_of(const HitachiEntry& secondary, const HitachiPair&) const override {
    return fmt::format("/local-clone-copypairs/{},{}", group_id(secondary.group), secondary.label);
  }

  // `new_group`: the mirror unit of a group that it makes; none when the group is there. `more` of
  // its body.
  Result<> create(const HitachiEntry& secondary, uint64_t primary,
                  std::optional<uint64_t> new_group, json more) const {
    json body = std::move(more);
    body.update({{"copyGroupName", secondary.group},
                 {"pvolDeviceGroupName", secondary.group + "P_"},
                 {"svolDeviceGroupName", secondary.group + "S_"},
                 {"copyPairName", secondary.label},
                 {"replicationType", "SI"},
                 {"pvolLdevId", primary},
                 {"svolLdevId", secondary.ldev},
                 {"isNewGroupCreation", new_group.has_value()},
                 {"copyPace", kPace},
                 {"isDataReductionForceCopy", true}});
    if (new_group) body["pvolMuNumber"] = *new_group;
    return rest_.send("POST", "/local-clone-copypairs", body, rest_.soon());
  }
};

}  // namespace

Result<HitachiPair> HitachiPairs::pair_of(const HitachiEntry& secondary) const {
  for (HitachiPair& pair : TRY(in_group(secondary.group))) {
    if (pair.has_secondary && pair.secondary == secondary.ldev) return std::move(pair);
  }
  return rest_.error(ErrorKind::kNotFound,
                     fmt::format("the pair of {} is not there any more", secondary.id()));
}

Result<> HitachiPairs::dissolve(const HitachiEntry& secondary) const {
  Result<HitachiPair> pair = pair_of(secondary);
  if (!pair && pair.error().kind == ErrorKind::kNotFound) return {};
  if (!pair) return std::move(pair).error();
  TRY(rest_.send("DELETE", path_of(secondary, *pair), nullptr, rest_.soon()));
  return wait_for({&secondary, 1}, kGone, rest_.soon());
}

Result<> HitachiPairs::wait_for(std::span<const HitachiEntry> secondaries,
                                const std::string& status, HitachiRest::Deadline deadline) const {
  using Clock = std::chrono::steady_clock;
  const std::string& group = secondaries.front().group;
  const bool leaving = status == kCopied || status == kGone;
  for (Clock::duration pause = kFirstLook;;
       pause = std::min<Clock::duration>(2 * pause, kSlowestLook)) {
    size_t there = 0;
    size_t good = 0;
    for (const HitachiPair& pair : TRY(in_group(group))) {
      const bool asked =
          std::ranges::find(secondaries, pair.secondary, &HitachiEntry::ldev) != secondaries.end();
      if (!asked) continue;
      ++there;
      good += pair.status == status ? 1 : 0;
      if (pair.status != "PSUE" || status == kGone) continue;
      return rest_.error(
          fmt::format("the pair of LDEV {} and {} failed (PSUE)", pair.primary, pair.secondary));
    }
    if (leaving ? there == 0 : good == secondaries.size()) return {};
    if (Clock::now() + pause >= deadline) {
      return rest_.error(fmt::format("the pairs of group {} are not {} in time", group, status));
    }
    std::this_thread::sleep_for(pause);
  }
}

std::unique_ptr<HitachiPairs> thin_image_pairs(const HitachiConfig& config,
                                               const HitachiRest& rest) {
  return std::make_unique<ThinImagePairs>(config, rest);
}

std::unique_ptr<HitachiPairs> shadow_image_pairs(const HitachiConfig& config,
                                                 const HitachiRest& rest) {
  return std::make_unique<ShadowImagePairs>(config, rest);
}

}  // namespace plumb
