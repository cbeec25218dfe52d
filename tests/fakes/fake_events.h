// FakeEvents: an EventRouter that remembers; no KVM.
#pragma once

#include <unistd.h>

#include <map>
#include <vector>

#include "base/check.h"
#include "vmm/event_router.h"

namespace plumb {

class FakeEvents : public EventRouter {
 public:
  struct Route {
    int fd = -1;
    MsiMessage message;
  };

  Result<uint32_t> add_msi(int fd, const MsiMessage& message) override {
    if (refuse) return failed("no more interrupts");
    ++changes;
    routes.push_back({fd, message});
    return static_cast<uint32_t>(routes.size() - 1);
  }
  Result<> change_msi(uint32_t handle, const MsiMessage& message) override {
    ++changes;
    routes.at(handle).message = message;
    return {};
  }
  void remove_msi(uint32_t handle, int fd) override {
    ENSURE(routes.at(handle).fd == fd);
    routes[handle] = {};
  }
  bool add_doorbell(uint64_t address, int fd) override {
    doorbells[address] = fd;
    return true;
  }
  void remove_doorbell(uint64_t address, int /*fd*/) override { doorbells.erase(address); }

  // How often route `index` has been signalled since the last call.
  uint64_t take_signals(size_t index) const {
    uint64_t count = 0;
    if (index >= routes.size()) return 0;
    return ::read(routes[index].fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
  }

  bool refuse = false;
  int changes = 0;
  std::vector<Route> routes;
  std::map<uint64_t, int> doorbells;
};

}  // namespace plumb
