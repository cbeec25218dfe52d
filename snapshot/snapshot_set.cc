#include "snapshot/snapshot_set.h"

#include <algorithm>
#include <cctype>
#include <set>

namespace plumb {
namespace {

using Json = nlohmann::json;

Json to_json(const SnapshotDisk& disk) {
  return {{"id", disk.id},
          {"image", disk.source.image},
          {"wwn", disk.source.wwn},
          {"size_bytes", disk.source.size_bytes},
          {"array", disk.array},
          {"volume_id", disk.volume_id},
          {"snapshot_id", disk.snapshot_id}};
}

Json to_json(const SnapshotMember& member) {
  Json disks = Json::array();
  for (const SnapshotDisk& disk : member.disks) disks.push_back(to_json(disk));
  return {{"vm", member.vm},
          {"parent", member.parent},
          {"grade", name_of(member.grade)},
          {"reason", member.reason},
          {"agent", member.agent},
          {"os", {{"id", member.os.id}, {"name", member.os.name}, {"kernel", member.os.kernel}}},
          {"freeze_ms", member.freeze_ms},
          {"frozen_ms", member.frozen_ms},
          {"held_us", member.held_us},
          {"definition", member.definition},
          {"disks", disks}};
}

SnapshotDisk disk_from(const Json& json) {
  return {.id = json.at("id"),
          .source = {.image = json.at("image"),
                     .wwn = json.at("wwn"),
                     .device = "",
                     .size_bytes = json.at("size_bytes")},
          .array = json.at("array"),
          .volume_id = json.at("volume_id"),
          .snapshot_id = json.at("snapshot_id")};
}

Result<SnapshotMember> member_from(const Json& json) {
  SnapshotMember member;
  member.vm = json.at("vm");
  member.parent = json.at("parent");
  member.grade = TRY(parse_grade(json.at("grade").get<std::string>()));
  member.reason = json.at("reason");
  member.agent = json.at("agent");
  const Json& os = json.at("os");
  member.os = {.id = os.at("id"), .name = os.at("name"), .kernel = os.at("kernel")};
  member.freeze_ms = json.at("freeze_ms");
  member.frozen_ms = json.at("frozen_ms");
  member.held_us = json.at("held_us");
  member.definition = json.at("definition");
  for (const Json& disk : json.at("disks")) member.disks.push_back(disk_from(disk));
  return member;
}

template <typename List, typename Name>
bool all_different(const List& list, Name name) {
  std::set<std::string> seen;
  return std::ranges::all_of(list, [&](const auto& one) {
    return !std::invoke(name, one).empty() && seen.insert(std::invoke(name, one)).second;
  });
}

Result<> check(const SnapshotSet& set) {
  if (!is_snapshot_id(set.id)) return failed("its id is none");
  if (set.members.empty()) return failed("it is of no VM");
  if (!all_different(set.members, &SnapshotMember::vm)) return failed("two of its VMs are one");
  for (const SnapshotMember& member : set.members) {
    if (!all_different(member.disks, &SnapshotDisk::id)) {
      return failed("two disks of VM '{}' are one", member.vm);
    }
    if (!member.definition.is_object()) return failed("VM '{}' has no definition", member.vm);
  }
  return {};
}

Result<SnapshotSet> parse(const Json& json) {
  SnapshotSet set;
  if (json.at("version") != SnapshotSet::kVersion) {
    return failed("it is of another version; use a newer plumb");
  }
  set.id = json.at("id");
  set.taken_at = json.at("taken_at");
  set.note = json.at("note");
  set.asked = TRY(parse_grade(json.at("asked").get<std::string>()));
  set.copied_us = json.at("copied_us");
  for (const Json& member : json.at("members")) set.members.push_back(TRY(member_from(member)));
  TRY(check(set));
  return set;
}

// FNV-1a, 64 bits: names that differ, not secrets.
uint64_t hash_of(std::string_view text, uint64_t hash) {
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return (hash ^ 0xffU) * 0x100000001b3ULL;  // the end of a part, which no text has
}

}  // namespace

const SnapshotMember* SnapshotSet::find(std::string_view vm) const {
  const auto found = std::ranges::find(members, vm, &SnapshotMember::vm);
  return found == members.end() ? nullptr : &*found;
}

Json set_to_json(const SnapshotSet& set) {
  Json members = Json::array();
  for (const SnapshotMember& member : set.members) members.push_back(to_json(member));
  return {{"version", SnapshotSet::kVersion},
          {"id", set.id},
          {"taken_at", set.taken_at},
          {"note", set.note},
          {"asked", name_of(set.asked)},
          {"copied_us", set.copied_us},
          {"members", members}};
}

Result<SnapshotSet> set_from_json(const Json& json, std::string_view file) {
  const auto broken = [&](std::string_view why) {
    return failed("snapshot record {} cannot be used: {}", file, why);
  };
  try {
    Result<SnapshotSet> set = parse(json);
    return set ? std::move(set) : broken(set.error().message);
  } catch (const Json::exception& error) {
    return broken(error.what());
  }
}

bool is_snapshot_id(std::string_view text) {
  if (text.empty() || text.size() > kMaxIdBytes) return false;
  if (text.front() == '.' || text.front() == '-') return false;
  return std::ranges::all_of(text, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
  });
}

std::string array_name_of(std::string_view unique, std::string_view vm, std::string_view disk) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const std::string_view part : {unique, vm, disk}) hash = hash_of(part, hash);
  return fmt::format("plumb-{:016x}", hash);
}

}  // namespace plumb
