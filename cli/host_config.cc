#include "cli/host_config.h"

#include <unistd.h>

#include <cstdlib>

#include "base/file.h"

namespace plumb {
namespace {

std::string setting(const char* variable, const char* otherwise) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

}  // namespace

std::string state_root() { return setting("PLUMB_STATE_DIR", "/var/lib/plumb"); }

std::string config_path() { return setting("PLUMB_CONFIG", "/etc/plumb/plumb.toml"); }

Result<std::vector<ArrayDefinition>> configured_arrays() {
  const std::string path = config_path();
  if (::access(path.c_str(), F_OK) != 0) return std::vector<ArrayDefinition>();
  const std::string state_folder = state_root() + "/arrays";
  TRY(make_folders(state_folder, 0700));
  return read_arrays(TRY(read_file(path)), path, state_folder);
}

}  // namespace plumb
