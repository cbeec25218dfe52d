#include "snapshot/snapshot_plan.h"

#include <algorithm>

namespace plumb {

using Json = nlohmann::json;

std::vector<std::string> SnapshotPlan::arrays() const {
  std::vector<std::string> names;
  for (const PlannedMember& member : members) {
    for (const PlannedDisk& disk : member.disks) {
      if (std::ranges::find(names, disk.array) == names.end()) names.push_back(disk.array);
    }
  }
  return names;
}

std::vector<std::string> describe(const SnapshotPlan& plan) {
  std::vector<std::string> lines{fmt::format("snapshot {}", plan.id)};
  for (const PlannedMember& member : plan.members) {
    if (plan.quiesce != Grade::kCrash) {
      lines.push_back(
          fmt::format("freeze {} by its guest agent ({})", member.vm, name_of(plan.quiesce)));
    }
    lines.push_back(fmt::format("hold the disks of {}", member.vm));
    for (const std::string& one : member.left_out) {
      lines.push_back(fmt::format("{}: {}", member.vm, one));
    }
  }
  for (const PlannedMember& member : plan.members) {
    for (const PlannedDisk& disk : member.disks) {
      lines.push_back(
          fmt::format("copy disk {} of {} ({}) in {} as {}", disk.id, member.vm,
                      disk.medium.image.empty() ? "LUN " + disk.medium.wwn : disk.medium.image,
                      disk.array, disk.name));
    }
  }
  lines.emplace_back(plan.quiesce == Grade::kCrash ? "release" : "release, thaw");
  lines.push_back(fmt::format("record {}", plan.id));
  return lines;
}

Json journal_of(const SnapshotPlan& plan) {
  Json vms = Json::array();
  Json snapshots = Json::array();
  for (const PlannedMember& member : plan.members) {
    vms.push_back(member.vm);
    for (const PlannedDisk& disk : member.disks) {
      snapshots.push_back({{"array", disk.array}, {"name", disk.name}});
    }
  }
  return {{"vms", vms}, {"snapshots", snapshots}};
}

}  // namespace plumb
