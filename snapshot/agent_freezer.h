// AgentFreezer: freezes a guest by its qemu-guest-agent.
#pragma once

#include "snapshot/guest_agent.h"
#include "snapshot/guest_freezer.h"

namespace plumb {

class AgentFreezer final : public GuestFreezer {
 public:
  explicit AgentFreezer(GuestAgent::Config config) : agent_(std::move(config)) {}

  Result<GuestFacts> facts(Timeout timeout) override;
  Result<unsigned> freeze(const std::vector<std::string>& mountpoints, Timeout timeout) override;
  Result<Thawed> thaw(Timeout timeout) override;
  std::optional<HookReport> hooks(Timeout timeout) override;
  // Between two freezes the port belongs to others.
  void give_back_port() override { agent_.disconnect(); }

 private:
  GuestAgent agent_;
  AgentInfo info_;
};

}  // namespace plumb
