#include "cli/vm_client.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>

#include "base/nearest.h"
#include "cli/runtime_folder.h"
#include "vmm/control_api.h"

namespace plumb {

Result<VmClient> VmClient::find(const std::string& vm_name) {
  const pid_t pid = running_pid(vm_name);
  if (pid == 0) {
    const std::vector<std::string> running = running_vms();
    const std::vector<std::string_view> names(running.begin(), running.end());
    return make_error(ErrorKind::kNotFound, "no VM '{}' runs here{}; see `plumb ps`", vm_name,
                      nearest_hint(vm_name, names));
  }
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return os_error(errno, "process {} of VM '{}' cannot be watched", pid, vm_name);
  return VmClient(vm_name, pid, std::move(process));
}

Result<nlohmann::json> VmClient::get(const std::string& target) const {
  return ControlApi::request(RuntimePaths(name_).control, "GET", target, nullptr);
}

Result<nlohmann::json> VmClient::put(const std::string& target) const {
  return put(target, nullptr);
}

Result<nlohmann::json> VmClient::put(const std::string& target, const nlohmann::json& body) const {
  return ControlApi::request(RuntimePaths(name_).control, "PUT", target, body);
}

bool VmClient::wait_for_end(int timeout_ms) const {
  pollfd ended{process_.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&ended, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

void VmClient::kill_process() const {
  ::syscall(SYS_pidfd_send_signal, process_.get(), SIGKILL, nullptr, 0);
}

}  // namespace plumb
