#include "cli/host_config.h"

#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/unix_socket.h"
#include "cli/runtime_folder.h"
#include "snapshot/lease_client.h"

namespace plumb {
namespace {

constexpr int kPatienceMs = 30'000;

// Of all that run, the one that has the disk; a VM that does not answer is passed by.
Result<> ask_vm_to_let_go(const std::string& disk, const std::string& uuid) {
  for (const std::string& vm : running_vms()) {
    Result<UniqueFd> socket = connect_unix(RuntimePaths(vm).lease, SOCK_SEQPACKET);
    if (!socket) continue;
    LeaseClient lease(std::move(socket).value());
    Result<nlohmann::json> said =
        lease.call("begin", {{"owner", fmt::format("plumb (pid {})", ::getpid())}}, kPatienceMs);
    if (!said) continue;
    for (const nlohmann::json& medium : said->value("media", nlohmann::json::array())) {
      if (medium.value("wwn", "") == disk || medium.value("device", "") == disk) {
        return let_overlay_go(lease, uuid);
      }
    }
  }
  return failed("no VM that runs says that it has {}", disk);
}

}  // namespace

std::string config_path() {
  const char* path = std::getenv("PLUMB_CONFIG");
  return path != nullptr && *path != '\0' ? path : "/etc/plumb/plumb.toml";
}

Result<std::vector<ArrayDefinition>> configured_arrays() {
  const std::string path = config_path();
  if (::access(path.c_str(), F_OK) != 0) return std::vector<ArrayDefinition>();
  const std::string state_folder = state_root() + "/arrays";
  TRY(make_folders(state_folder, 0700));
  return read_arrays(TRY(read_file(path)), path, state_folder);
}

Result<ArraySet> configured_array_set() {
  std::vector<ArrayDefinition> arrays = TRY(configured_arrays());
  const std::string path = config_path();
  uint64_t limit_bytes = 0;
  if (::access(path.c_str(), F_OK) == 0) {
    limit_bytes = TRY(read_overlay_limit(TRY(read_file(path)), path));
  }
  TRY(make_folders(overlay_folder(), 0700));
  auto overlays =
      std::make_unique<OverlayArray>(OverlayStore(overlay_folder(), limit_bytes),
                                     OverlayArray::Vms{.keep = {}, .let_go = ask_vm_to_let_go});
  return ArraySet(std::move(arrays), std::move(overlays));
}

}  // namespace plumb
