// LeaseClient: the owner's end of a FreezeLease (freeze_lease.h). What it froze and held is let go
// when it dies.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class LeaseClient {
 public:
  // `socket`: connected to the lease's JsonServer.
  explicit LeaseClient(UniqueFd socket) : socket_(std::move(socket)) {}

  // Sends {"do": `what`, and `more`}, and does not wait: so several guests work at once.
  Result<> ask(const char* what, nlohmann::json more, std::span<const int> fds = {});
  // The answer; the lease has its own limits, this one is for a VM that does not answer at all.
  Result<nlohmann::json> answer(int timeout_ms);

  Result<nlohmann::json> call(const char* what, nlohmann::json more, int timeout_ms,
                              std::span<const int> fds = {});

 private:
  UniqueFd socket_;
};

// For the owner of a lease whose disks are not held: the VM gives up the overlay of this UUID.
Result<> let_overlay_go(LeaseClient& lease, const std::string& uuid);

}  // namespace plumb
