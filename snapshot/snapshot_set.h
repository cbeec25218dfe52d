// SnapshotSet: what is recorded of a snapshot: the disks of one guest, or of several that were
// taken at one instant. docs/formats/snapshot.md. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/grade.h"

namespace plumb {

struct SnapshotDisk {
  std::string id;  // in the VM's definition
  DiskMedium source;
  std::string array;        // the name of the provider that has it
  std::string volume_id;    // what it is of, there
  std::string snapshot_id;  // what it is, there
};

struct SnapshotMember {
  std::string vm;
  std::string parent;  // the set that this VM's disks came from, or followed; "" for the first
  Grade grade = Grade::kCrash;
  std::string reason;  // why it is weaker than asked; "" when it is not
  std::string agent;
  GuestOs os;
  uint64_t freeze_ms = 0;  // how long the guest took to freeze
  uint64_t frozen_ms = 0;  // how long it was frozen then, until it said that it is thawed
  uint64_t held_us = 0;    // how long its disks took no request
  nlohmann::json definition;
  std::vector<SnapshotDisk> disks;
};

struct SnapshotSet {
  static constexpr int kVersion = 1;

  std::string id;
  std::string taken_at;  // RFC 3339, UTC
  std::string note;
  Grade asked = Grade::kCrash;
  uint64_t copied_us = 0;  // how long the arrays took, while disks were held
  std::vector<SnapshotMember> members;

  // The member that is of this VM; nullptr without one.
  const SnapshotMember* find(std::string_view vm) const;
};

nlohmann::json set_to_json(const SnapshotSet& set);
// Errors name `file`: another version, a key that is missing or of another kind, no member, two
// members or disks of one name, an id that is no id.
Result<SnapshotSet> set_from_json(const nlohmann::json& json, std::string_view file);

// Whether the text may be an id: letters, digits, '.', '_', '-', not first a dot or dash, at most
// kMaxIdBytes.
inline constexpr size_t kMaxIdBytes = 80;
bool is_snapshot_id(std::string_view text);

// The name of something in an array, short enough for every provider: "plumb-" and 16 hexadecimal
// digits made of the three. `unique` is random: what a failure leaves is removed by its name, which
// must be nobody else's, on whichever host.
std::string array_name_of(std::string_view unique, std::string_view vm, std::string_view disk);

}  // namespace plumb
