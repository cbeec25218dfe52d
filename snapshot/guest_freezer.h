// GuestFreezer: what can make a guest's file systems still and let them go on: its agent, or
// whatever runs it.
//
// Blocks, each call up to its timeout; one thread at a time. An error's os_errno is that of
// guest_agent.h: but for 0, it is not known whether the guest did what was asked.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/guest_agent_protocol.h"

namespace plumb {

// What the applications' hooks in the guest say of themselves (docs/formats/hook-report.md).
struct HookReport {
  uint64_t count = 0;   // of freezes since the guest booted
  bool thawed = false;  // the last freeze has ended
  std::vector<std::string> good;
  std::vector<std::string> failed;
};

struct GuestFacts {
  std::string agent;  // its version
  GuestOs os;
  std::vector<GuestFileSystem> file_systems;
  std::optional<HookReport> hooks;  // none: no hooks, or no way to ask
};

struct Thawed {
  unsigned count = 0;     // file systems that this thawed; fewer than were frozen: some had been
                          // thawed before
  std::string complaint;  // "": none. VSS on Windows tells here that it let writers go too early
  std::chrono::steady_clock::time_point at = std::chrono::steady_clock::now();  // when it said so
};

class GuestFreezer {
 public:
  using Timeout = std::chrono::milliseconds;
  virtual ~GuestFreezer() = default;

  // Errors: nobody answers, the guest cannot be frozen (why), or is frozen already.
  virtual Result<GuestFacts> facts(Timeout timeout) = 0;
  // The file systems at `mountpoints`, or, when that is empty, all. Returns how many.
  virtual Result<unsigned> freeze(const std::vector<std::string>& mountpoints, Timeout timeout) = 0;
  // After success the guest is thawed, whoever did it.
  virtual Result<Thawed> thaw(Timeout timeout) = 0;
  // After a thaw; none as in GuestFacts.
  virtual std::optional<HookReport> hooks(Timeout timeout) = 0;
  // No more calls for a while: what is held for them may go.
  virtual void give_back_port() = 0;
};

}  // namespace plumb
