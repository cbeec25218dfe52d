// What the provider dm-thin remembers of a pool: which thin id has which name. The pool itself
// knows numbers only.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/result.h"

namespace plumb {

// Thin ids have 24 bits. Those from here on are given away by the provider, those below are the
// administrator's.
inline constexpr uint32_t kFirstThinId = 1U << 23U;
inline constexpr uint32_t kLastThinId = (1U << 24U) - 1;

struct ThinEntry {
  bool snapshot = false;  // else a volume
  uint32_t thin_id = 0;   // its own in the pool: it was free when it was written down
  std::string origin;     // of a snapshot: the id of its volume
  uint64_t size_bytes = 0;
  bool whole = false;
};

// A volume that is between two contents.
struct ThinRestore {
  uint32_t thin_id = 0;
  uint64_t size_bytes = 0;
  std::string snapshot;  // the name of what it becomes
};

struct ThinState {
  uint32_t next_id = kFirstThinId;
  std::map<std::string, ThinEntry> entries;     // by name
  std::map<std::string, ThinRestore> restores;  // by the volume's id
};

// Errors: what is not as to_json() writes it.
Result<ThinState> thin_state_from(const nlohmann::json& json);
void store_in(nlohmann::json& json, const ThinState& state);

// What a thin pool reports of itself (Documentation/admin-guide/device-mapper/thin-provisioning).
struct ThinPoolStatus {
  uint64_t used_metadata_blocks = 0;
  uint64_t metadata_blocks = 0;
  uint64_t used_data_blocks = 0;
  uint64_t data_blocks = 0;
  std::string mode;  // "rw", "ro", "out_of_data_space"
  bool needs_check = false;
};

// Errors: a pool that has failed, or words of another kind. Pure.
Result<ThinPoolStatus> parse_thin_pool_status(const std::string& words);

// What is wrong with the pool; "" when nothing is. Pure.
std::string trouble_of(const ThinPoolStatus& status);

// The pool ("253:2") and the id in the table of a thin device; none of another's. Pure.
struct ThinTable {
  std::string pool;
  uint32_t thin_id = 0;
};
std::optional<ThinTable> parse_thin_table(const std::string& words);

}  // namespace plumb
