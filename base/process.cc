#include "base/process.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"

namespace plumb {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool has_open(const std::string& process, dev_t device) {
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(process + "/fd", error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    struct stat status {};
    if (::stat(it->path().c_str(), &status) != 0) continue;
    if (S_ISBLK(status.st_mode) && status.st_rdev == device) return true;
  }
  return false;
}

}  // namespace

std::string describe_process(const std::string& pid, const std::string& proc_root) {
  // The arguments, each ended by a NUL: a VM's process is "plumb-vm NAME".
  const Result<std::string> content = read_file(proc_root + "/" + pid + "/cmdline", 1U << 21U);
  const std::string arguments = content.ok() ? content.value() : std::string();
  const std::string program = arguments.substr(0, arguments.find('\0'));
  const std::string base = program.substr(program.rfind('/') + 1);
  if (base == "plumb-vm" && arguments.size() > program.size() + 1) {
    return fmt::format("VM {} (pid {})", arguments.c_str() + program.size() + 1, pid);
  }
  const std::string name = read_attribute(proc_root + "/" + pid + "/comm");
  return fmt::format("{} (pid {})", name.empty() ? "a process" : name, pid);
}

std::optional<std::string> process_with_device_open(dev_t device, const std::string& proc_root) {
  const std::string own = std::to_string(::getpid());
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(proc_root, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string pid = it->path().filename().string();
    if (!is_number(pid) || pid == own || !has_open(it->path().string(), device)) continue;
    return describe_process(pid, proc_root);
  }
  return std::nullopt;
}

}  // namespace plumb
