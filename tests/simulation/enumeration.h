// Every sequence of up to three requests over a small alphabet: sent together or one after the
// other, completing in every order, with a crash after every step of the backend, in which none,
// all, or just one of the writes survives that no flush has reached. After each such crash the
// whole disk is read back through another block path.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tests/simulation/machine.h"

namespace plumb::simulation {

struct EnumerationConfig {
  uint32_t length = 3;
  bool block_device = false;    // else an image file
  bool shares_flushes = false;  // durable writes do (FileFacts::shared_flush_depth)
  CacheMode cache = CacheMode::kWriteback;
  Decorate decorate;  // see Machine
};

struct EnumerationResult {
  uint64_t sequences = 0;  // with the ways to send them
  uint64_t schedules = 0;  // orders of completion of all of them
  uint64_t crash_points = 0;
  uint64_t crashes = 0;  // outcomes read back
  std::optional<Violation> violation;
  std::string where;  // the sequence that broke a rule
};

// `guests`: memory for one driver.
EnumerationResult enumerate(const EnumerationConfig& config,
                            std::vector<std::unique_ptr<FakeGuest>>& guests);

}  // namespace plumb::simulation
