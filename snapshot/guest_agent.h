// GuestAgent: asks qemu-guest-agent in a guest over its port, one request at a time.
//
// Blocks, and every call ends by its timeout. Before the first request, and after an answer that
// did not come or was none, the stream is brought into step by guest-sync-delimited: what an older
// request was answered then is never taken for the answer to a newer one.
//
// An error's os_errno tells what is known of the guest: 0, the agent refused; ETIMEDOUT, it did not
// answer, and may still do what was asked; EPIPE, its port or the VM is gone; EPROTO, it answers
// nonsense; ECANCELED, the caller gave up.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "snapshot/guest_agent_protocol.h"

namespace plumb {

class GuestAgent {
 public:
  using Timeout = std::chrono::milliseconds;
  struct Config {
    std::function<Result<UniqueFd>()> connect;  // a stream socket to the agent's port
    int cancel_fd = -1;                         // readable: every call ends with ECANCELED
  };
  explicit GuestAgent(Config config) : config_(std::move(config)) {}

  // Connects, if need be, and brings the stream into step: an agent that answers this is there.
  Result<> sync(Timeout timeout);

  // Any command; `arguments` null for none.
  Result<nlohmann::json> call(std::string_view command, const nlohmann::json& arguments,
                              Timeout timeout);

  Result<AgentInfo> info(Timeout timeout);
  Result<GuestOs> os(Timeout timeout);
  Result<std::vector<GuestFileSystem>> file_systems(Timeout timeout);
  Result<bool> frozen(Timeout timeout);
  // Returns how many file systems are frozen. Of `mountpoints`, or, when that is empty, of all. An
  // agent that refuses has thawed what it had frozen.
  Result<unsigned> freeze(const std::vector<std::string>& mountpoints, Timeout timeout);
  Result<unsigned> thaw(Timeout timeout);
  // The beginning of a file in the guest, at most `limit_bytes`.
  Result<std::string> read_file(const std::string& path, uint32_t limit_bytes, Timeout timeout);

  // Gives the port back, to whom it may concern.
  void disconnect();

 private:
  using Deadline = std::chrono::steady_clock::time_point;
  Result<> sync_until(Deadline deadline);
  Result<nlohmann::json> call_until(std::string_view command, const nlohmann::json& arguments,
                                    Deadline deadline);
  Result<> send(std::string_view bytes, Deadline deadline);
  Result<std::string> receive_line(Deadline deadline);
  Result<> wait(short events, Deadline deadline);
  Error lost(Error error);

  const Config config_;
  UniqueFd socket_;
  AgentLines lines_;
  bool in_step_ = false;
  int64_t last_id_ = 0;
};

}  // namespace plumb
