#include "cli/runtime_folder.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"

namespace plumb {
namespace {

// A lock of the open file description (fcntl(2), F_OFD_SETLK): it ends with the last descriptor,
// whatever happens to the process.
struct flock whole_file(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string folder_of(const char* variable, const char* otherwise) {
  const char* folder = std::getenv(variable);
  return folder != nullptr && *folder != '\0' ? folder : otherwise;
}

pid_t pid_in(const std::string& path) {
  return static_cast<pid_t>(std::strtol(read_attribute(path).c_str(), nullptr, 10));
}

}  // namespace

std::string runtime_root() { return folder_of("PLUMB_RUN_DIR", "/run/plumb"); }

std::string state_root() { return folder_of("PLUMB_STATE_DIR", "/var/lib/plumb"); }

std::string overlay_folder() { return state_root() + "/overlays"; }

std::string snapshot_folder() { return state_root() + "/snapshots"; }

std::string template_folder() { return state_root() + "/templates"; }

std::string disk_journal_folder() { return state_root() + "/disks"; }

std::string generation_folder() { return state_root() + "/generations"; }

Result<UniqueFd> lock_runtime_folder(const std::string& vm_name) {
  const RuntimePaths paths(vm_name);
  TRY(make_folders(paths.folder, 0700));
  UniqueFd fd = TRY(open_file("lock", paths.lock, O_RDWR | O_CREAT));
  struct flock lock = whole_file(F_WRLCK);
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) {
    return make_error(ErrorKind::kLocked,
                      "VM '{}' runs already, as pid {}; stop it or give another --name", vm_name,
                      pid_in(paths.lock));
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd.get(), 0) != 0 ||
      ::pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return os_error(errno, "{} cannot be written", paths.lock);
  }
  return fd;
}

pid_t running_pid(const std::string& vm_name) {
  const RuntimePaths paths(vm_name);
  const UniqueFd fd(::open(paths.lock.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return 0;
  struct flock lock = whole_file(F_WRLCK);
  if (::fcntl(fd.get(), F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return 0;
  return pid_in(paths.lock);
}

std::vector<std::string> running_vms() {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(runtime_root(), error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (running_pid(name) != 0) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace plumb
