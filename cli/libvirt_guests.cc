#include "cli/libvirt_guests.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "base/unix_socket.h"
#include "base/uuid.h"
#include "cli/command_line.h"
#include "cli/exit_code.h"
#include "cli/start_report.h"
#include "snapshot/libvirt_domain.h"

namespace plumb {
namespace {

// How long a guest that was left frozen is waited for; an agent that is there answers in much less.
constexpr int kRecoveryMs = 30'000;

// A domain's name may be anything but a path.
std::string runtime_name_of(const std::string& uri, const std::string& domain) {
  return "libvirt/" + Uuid::derived(Uuid(), uri + "\n" + domain).text();
}

[[noreturn]] void become_watchdog(const std::string& uri, const std::string& domain,
                                  const LibvirtGuestPaths& paths, int status_fd) {
  Result<> left = leave_terminal(paths.name);
  Error error = left ? Error{} : std::move(left).error();
  const std::string program = program_beside("plumb-libvirt");
  if (error.message.empty()) {
    const std::string status = std::to_string(::fcntl(status_fd, F_DUPFD, 3));  // survives exec
    ::execl(program.c_str(), program.c_str(), uri.c_str(), domain.c_str(), status.c_str(), nullptr);
    error = os_error(errno, "{} cannot be started", program);
  }
  report_start(status_fd, error);
  ::_exit(kExitFailed);
}

// Returns its pid once it serves the lease.
Result<pid_t> start_watchdog(const std::string& uri, const std::string& domain) {
  const LibvirtGuestPaths paths(uri, domain);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return os_error(errno, "a pipe cannot be made");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return os_error(errno, "a watchdog for domain '{}' cannot be started", domain);
  if (child == 0) become_watchdog(uri, domain, paths, write_end.get());
  write_end.reset();
  TRY(await_start(read_end.get(), paths.name));
  return child;
}

bool is_empty(const std::string& path) { return read_attribute(path).empty(); }

bool is_left(const LibvirtGuestPaths& paths) {
  return running_pid(paths.name) == 0 &&
         !(is_empty(paths.files.freeze) && is_empty(paths.suspended));
}

Recovered recover_guest(const LibvirtGuestPaths& paths) {
  const nlohmann::json json = nlohmann::json::parse(read_attribute(paths.domain), nullptr, false);
  const std::string uri = json.is_object() ? json.value("uri", "") : "";
  const std::string domain = json.is_object() ? json.value("domain", "") : "";
  Result<pid_t> watchdog = start_watchdog(uri, domain);
  const bool ended = watchdog && wait_for_end(*watchdog, kRecoveryMs);
  if (ended && is_empty(paths.files.freeze) && is_empty(paths.suspended)) {
    return {
        fmt::format("domain '{}', which a command that was killed had left frozen or suspended, "
                    "goes on",
                    domain),
        true};
  }
  return {fmt::format("domain '{}' may still be frozen or suspended ({}): {}", domain,
                      paths.files.folder,
                      watchdog ? fmt::format("pid {} tells it to go on until it does", *watchdog)
                               : watchdog.error().message),
          false};
}

}  // namespace

LibvirtGuestPaths::LibvirtGuestPaths(const std::string& uri, const std::string& domain_name)
    : LibvirtGuestPaths(runtime_name_of(uri, domain_name)) {}

LibvirtGuestPaths::LibvirtGuestPaths(const std::string& runtime_name)
    : name(runtime_name),
      files(runtime_name),
      domain(files.folder + "/domain"),
      suspended(files.folder + "/suspended") {}

Result<UniqueFd> connect_to_libvirt_lease(const std::string& uri, const std::string& domain) {
  TRY(check_libvirt_uri(uri));
  TRY(start_watchdog(uri, domain));
  return connect_unix(LibvirtGuestPaths(uri, domain).files.lease, SOCK_SEQPACKET);
}

std::vector<Recovered> recover_libvirt_guests() {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(runtime_root() + "/libvirt", error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    names.push_back("libvirt/" + it->path().filename().string());
  }
  std::ranges::sort(names);
  std::vector<Recovered> all;
  for (const std::string& name : names) {
    const LibvirtGuestPaths paths(name);
    if (is_left(paths)) all.push_back(recover_guest(paths));
  }
  return all;
}

}  // namespace plumb
