// ShadowImage's part of the array.
#include <algorithm>
#include <filesystem>

#include "snapshot/arrays/fake_hitachi.h"

namespace plumb {

// Words of a pair: its copy group, that one's two device groups, its own name.
FakeHitachi::Pair* FakeHitachi::mirror_of(const Words& words) {
  const auto found = std::ranges::find_if(pairs_, [&words](const Pair& pair) {
    return pair.group == words[0] && pair.group + "P_" == words[1] &&
           pair.group + "S_" == words[2] && pair.name == words[3];
  });
  return found == pairs_.end() ? nullptr : &*found;
}

ServedAnswer FakeHitachi::list_mirrors(const ServedRequest& request, const Words&) {
  Json data = Json::array();
  for (Pair& pair : pairs_) {
    const std::string id = fmt::format("{0},{0}P_,{0}S_", pair.group);
    if (pair.name.empty() || id != request.query.at("localCloneCopyGroupId")) continue;
    const bool split = pair.status == "PSUS";
    data.push_back({{"copyGroupName", pair.group},
                    {"copyPairName", pair.name},
                    {"replicationType", "SI"},
                    {"pvolLdevId", pair.primary},
                    {"pvolMuNumber", pair.mirror_unit},
                    {"pvolStatus", pair.status},
                    {"svolLdevId", pair.secondary},
                    {"svolStatus", split ? "SSUS" : pair.status},
                    {"localCloneCopypairId", id + "," + pair.name}});
    if (pair.consistency_group != 0) data.back()["consistencyGroupId"] = pair.consistency_group;
    pair.status = pair.next;
  }
  std::erase_if(pairs_, [](const Pair& pair) { return pair.status.empty(); });
  if (data.empty()) return refuse(404, "The specified object does not exist.");
  return {200, Json({{"data", data}}).dump(), {}};
}

ServedAnswer FakeHitachi::post_mirror(const ServedRequest& request, const Words&) {
  const Json body = Json::parse(request.body);
  const std::string group = body.at("copyGroupName");
  Pair pair{.group = group,
            .status = "COPY",
            .primary = body.at("pvolLdevId"),
            .secondary = body.at("svolLdevId"),
            .mirror_unit = body.value("pvolMuNumber", uint64_t{0}),
            .next = "PAIR",
            .name = body.at("copyPairName")};
  if (group.size() > 29 || pair.name.size() > 31) return stray(request, "a name too long");
  if (body.at("pvolDeviceGroupName") != group + "P_" ||
      body.at("svolDeviceGroupName") != group + "S_" || body.at("replicationType") != "SI") {
    return stray(request, "a group's names");
  }
  if (!ldevs_.contains(pair.primary) || !ldevs_.contains(pair.secondary)) {
    return refuse(404, "no LDEV");
  }
  if (std::filesystem::file_size(file_of(pair.primary)) !=
      std::filesystem::file_size(file_of(pair.secondary))) {
    return stray(request, "volumes of two sizes");
  }
  const bool splits = body.value("autoSplit", false);
  const Pair* first = nullptr;
  for (const Pair& other : pairs_) {
    if (other.group == group) first = &other;
    if (other.secondary == pair.primary && other.status != "PSUS") {
      return stray(request, "a copy of a copy that is not split");
    }
  }
  if (body.at("isNewGroupCreation") != (first == nullptr)) return stray(request, "a group");
  if (first != nullptr) {
    if (body.contains("pvolMuNumber")) return stray(request, "a mirror unit of its own");
    if (body.value("consistencyGroupId", uint64_t{0}) != first->consistency_group) {
      return stray(request, "a pair outside its group's consistency group");
    }
    pair.mirror_unit = first->mirror_unit;
    pair.consistency_group = first->consistency_group;
  } else if (body.value("isConsistencyGroup", false)) {
    if (splits) return stray(request, "a pair in a consistency group that splits by itself");
    if (!mood_.no_consistency) pair.consistency_group = ++last_consistency_group_;
  }
  const bool secondary = std::ranges::any_of(
      pairs_, [&pair](const Pair& other) { return other.secondary == pair.primary; });
  if (secondary ? pair.mirror_unit == 0 : pair.mirror_unit > 2) {
    return stray(request, "a mirror unit that there is not");
  }
  for (const Pair& other : pairs_) {
    if (other.primary == pair.primary && other.mirror_unit == pair.mirror_unit) {
      return stray(request, "a mirror unit that is taken");
    }
  }
  ++whole_copies_;
  if (splits) {
    copy(pair.primary, pair.secondary);
    pair.next = "PSUS";
  }
  if (mood_.pairs_fail) pair.next = "PSUE";
  pairs_.push_back(pair);
  return job(request);
}

ServedAnswer FakeHitachi::delete_mirror(const ServedRequest& request, const Words& words) {
  Pair* pair = mirror_of(words);
  if (pair == nullptr) return refuse(404, "no such pair");
  pair->status = "SMPP";
  pair->next = "";
  return job(request);
}

// The pair follows again when it has ended.
ServedAnswer FakeHitachi::restore_mirror(const ServedRequest& request, const Words& words) {
  Pair* pair = mirror_of(words);
  if (pair == nullptr) return refuse(404, "no such pair");
  if (pair->status != "PSUS") return stray(request, "a pair that is not split is restored");
  copy(pair->secondary, pair->primary);
  pair->status = "RCPY";
  pair->next = "PAIR";
  return job(request);
}

ServedAnswer FakeHitachi::split(const ServedRequest& request, Pair& pair) {
  if (pair.status != "PAIR") return stray(request, "a pair that is no pair is split");
  copy(pair.primary, pair.secondary);
  pair.status = "COPY";
  pair.next = "PSUS";
  return {};
}

ServedAnswer FakeHitachi::split_mirror(const ServedRequest& request, const Words& words) {
  Pair* pair = mirror_of(words);
  if (pair == nullptr) return refuse(404, "no such pair");
  ServedAnswer refused = split(request, *pair);
  return refused.status >= 400 ? refused : job(request);
}

ServedAnswer FakeHitachi::split_mirrors(const ServedRequest& request, const Words& words) {
  if (mood_.jobs_fail) return job(request, true);
  std::set<uint64_t> consistency_groups;
  for (Pair& pair : pairs_) {
    if (pair.group != words[0] || pair.name.empty()) continue;
    ServedAnswer refused = split(request, pair);
    if (refused.status >= 400) return refused;
    consistency_groups.insert(pair.consistency_group);
  }
  if (consistency_groups.size() > 1) return stray(request, "pairs split at several instants");
  return consistency_groups.empty() ? refuse(404, "no such group") : job(request);
}

ServedAnswer FakeHitachi::resync_mirrors(const ServedRequest& request, const Words& words) {
  for (Pair& pair : pairs_) {
    if (pair.group != words[0] || pair.name.empty()) continue;
    if (pair.status != "PSUS") return stray(request, "a pair that is not split is brought up");
    pair.status = "COPY";
    pair.next = "PAIR";
    ++resyncs_;
  }
  return job(request);
}

}  // namespace plumb
