// Pairs of LDEVs, by which a Hitachi array copies. Thin Image's secondary volume keeps what the
// primary has overwritten since; ShadowImage's is a whole copy. The calls are those of the REST API
// Reference Guide, "Managing Thin Image pairs" and "Managing ShadowImage pairs".
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/hitachi_rest.h"

namespace plumb {

// What an LDEV of plumb's is, as the state file has it.
struct HitachiEntry {
  std::string name;
  std::string label;  // of the LDEV, and of nothing else
  std::string group;  // of its pair, with those that are split together
  uint64_t ldev = 0;
  bool snapshot = false;  // else a volume
  uint64_t of = 0;        // of a snapshot: the LDEV it is of
  std::string of_id;      // and its id
  uint64_t size_bytes = 0;
  bool whole = false;
  bool shadow_image = false;  // how it is paired, or was filled
  uint64_t mirror_unit = 0;   // of a ShadowImage pair, on the side of `of`
  // Without a name: a volume that is removed but for its LDEV, which stays as long as there are
  // snapshots of it; or a snapshot that is removed, whose mirror is kept for the next.
  bool retired = false;

  std::string id() const { return fmt::format("{}@{}", name, ldev); }
};

class HitachiPairs {
 public:
  HitachiPairs(const HitachiConfig& config, const HitachiRest& rest)
      : config_(config), rest_(rest) {}
  HitachiPairs(const HitachiPairs&) = delete;
  HitachiPairs& operator=(const HitachiPairs&) = delete;
  virtual ~HitachiPairs() = default;

  // Empty when there is no such group.
  virtual Result<std::vector<HitachiPair>> in_group(const std::string& group) const = 0;
  // Pairs the snapshots of one group with what they are of, and waits until they follow it. Pairs
  // that are there already are brought up to date.
  virtual Result<> follow(std::span<const HitachiEntry> snapshots) const = 0;
  // One request: all pairs of the group stop following, at one instant.
  virtual Result<> split(const std::string& group) const = 0;
  // Waits until they can be used.
  virtual Result<> wait_until_split(std::span<const HitachiEntry> snapshots) const = 0;
  // All of a snapshot into a volume of its own; waits for the copy.
  virtual Result<> copy(const HitachiEntry& from, const HitachiEntry& to) const = 0;
  // Back to what it is of; waits for the copy. The snapshot stays.
  virtual Result<> restore(const HitachiEntry& snapshot) const = 0;
  // The pair of a secondary volume goes, if it is there; waits until it has.
  Result<> dissolve(const HitachiEntry& secondary) const;

 protected:
  // Its part of a path of pairs: "/snapshots/100,3".
  virtual std::string path_of(const HitachiEntry& secondary, const HitachiPair& pair) const = 0;

  // Until the pairs of these secondary volumes, which are of one group, are in the state. kCopied:
  // until they have gone by themselves; kGone: until they have gone, whatever became of them.
  static constexpr const char* kCopied = "SMPL";
  static constexpr const char* kGone = "gone";
  Result<> wait_for(std::span<const HitachiEntry> secondaries, const std::string& status,
                    HitachiRest::Deadline deadline) const;
  Result<HitachiPair> pair_of(const HitachiEntry& secondary) const;

  HitachiRest::Deadline copy_deadline() const { return HitachiRest::in(config_.copy_timeout_ms); }

  const HitachiConfig& config_;
  const HitachiRest& rest_;
};

// Both outlived by what they are given.
std::unique_ptr<HitachiPairs> thin_image_pairs(const HitachiConfig& config,
                                               const HitachiRest& rest);
std::unique_ptr<HitachiPairs> shadow_image_pairs(const HitachiConfig& config,
                                                 const HitachiRest& rest);

}  // namespace plumb
