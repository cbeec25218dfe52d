// What the Configuration Manager answers, read strictly. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

struct HitachiPath {
  std::string port;
  uint64_t host_group = 0;
  uint64_t lun = 0;
};

struct HitachiLdev {
  uint64_t number = 0;
  bool defined = false;  // else the number is free, and the rest is empty
  std::string label;
  std::string wwn;  // LunId::text()
  uint64_t size_bytes = 0;
  std::vector<HitachiPath> paths;
};

struct HitachiPair {
  uint64_t primary = 0;  // LDEV numbers
  uint64_t secondary = 0;
  uint64_t mirror_unit = 0;
  bool has_secondary = false;
  std::string status;                         // of the primary: "PAIR", "PSUS", …
  std::optional<uint64_t> consistency_group;  // of ShadowImage
};

struct HitachiJob {
  enum class State : uint8_t { kRunning, kDone, kFailed };
  uint64_t id = 0;
  State state = State::kRunning;
  std::string reason;
};

struct HitachiPool {
  std::string status;  // "POLN": well
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
};

struct HitachiSession {
  std::string token;
  uint64_t id = 0;
};

namespace hitachi_answer {
Result<HitachiLdev> ldev(std::string_view text);
Result<std::vector<HitachiLdev>> ldevs(std::string_view text);
Result<std::vector<HitachiPair>> pairs(std::string_view text);
Result<std::vector<HitachiPair>> shadow_image_pairs(std::string_view text);
Result<HitachiJob> job(std::string_view text);
Result<HitachiPool> pool(std::string_view text);
Result<HitachiSession> session(std::string_view text);
// The array's own words for what went wrong; "" when it has none.
std::string reason(std::string_view text);
}  // namespace hitachi_answer

}  // namespace plumb
