// LibvirtFreezer: freezes a guest of libvirt by virDomainFSFreeze.
//
// Libvirt has no call that reads a file in the guest: what hooks report is not known.
#pragma once

#include <functional>

#include "snapshot/guest_freezer.h"
#include "snapshot/libvirt_domain.h"

namespace plumb {

class LibvirtFreezer final : public GuestFreezer {
 public:
  struct Config {
    LibvirtDomain* domain = nullptr;  // outlives this
    // Blocks until the domain is not suspended by us any more: its agent could not answer.
    std::function<void(Timeout)> await_resumed;
    std::function<void()> given_back;  // after give_back_port(); the same thread
  };
  explicit LibvirtFreezer(Config config) : config_(std::move(config)) {}

  Result<GuestFacts> facts(Timeout timeout) override;
  Result<unsigned> freeze(const std::vector<std::string>& mountpoints, Timeout timeout) override;
  // A guest that runs no more is not frozen.
  Result<Thawed> thaw(Timeout timeout) override;
  std::optional<HookReport> hooks(Timeout) override { return std::nullopt; }
  // Libvirt waits for the agent as it did before.
  void give_back_port() override;

 private:
  Result<> wait_at_most(Timeout timeout);

  const Config config_;
};

}  // namespace plumb
