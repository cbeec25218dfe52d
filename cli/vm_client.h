// VmClient: talks to a running VM's process over its control socket, and ends it when need be.
#pragma once

#include <sys/types.h>

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class VmClient {
 public:
  // Error kNotFound, with the nearest name, when no VM of that name runs.
  static Result<VmClient> find(const std::string& vm_name);

  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }

  Result<nlohmann::json> get(const std::string& target) const;
  Result<nlohmann::json> put(const std::string& target) const;
  Result<nlohmann::json> put(const std::string& target, const nlohmann::json& body) const;

  // Whether the process ended within `timeout_ms`; -1 waits for ever.
  bool wait_for_end(int timeout_ms) const;
  // SIGKILL.
  void kill_process() const;

 private:
  VmClient(std::string name, pid_t pid, UniqueFd process)
      : name_(std::move(name)), pid_(pid), process_(std::move(process)) {}

  std::string name_;
  pid_t pid_;
  UniqueFd process_;  // pidfd_open(2): names this process even when its number is used again
};

}  // namespace plumb
