#include "cli/start_report.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/runtime_folder.h"

namespace plumb {

void report_start(int fd, const Error& error) {
  if (fd < 0) return;
  const nlohmann::json report = {{"kind", static_cast<int>(error.kind)},
                                 {"message", error.message}};
  const std::string text =
      report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  // Shorter than PIPE_BUF in practice, and nobody is left to tell when it fails.
  if (::write(fd, text.data(), text.size()) < 0) return;
}

Result<> leave_terminal(const std::string& vm_name) {
  const RuntimePaths paths(vm_name);
  TRY(make_folders(paths.folder, 0700));
  const UniqueFd nothing = TRY(open_file("device", "/dev/null", O_RDWR));
  const UniqueFd log = TRY(open_file("log", paths.log, O_WRONLY | O_CREAT | O_APPEND));
  ::setsid();
  if (::dup2(nothing.get(), STDIN_FILENO) < 0 || ::dup2(nothing.get(), STDOUT_FILENO) < 0 ||
      ::dup2(log.get(), STDERR_FILENO) < 0) {
    return os_error(errno, "standard output cannot be redirected");
  }
  return {};
}

Result<> await_start(int fd, const std::string& vm_name) {
  std::string text;
  char buffer[4096];
  while (text.find('\n') == std::string::npos) {
    const ssize_t got = ::read(fd, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  const nlohmann::json report = nlohmann::json::parse(text, nullptr, false);
  if (!report.is_object()) {
    return failed("VM '{}' ended while it started; see {}", vm_name, RuntimePaths(vm_name).log);
  }
  const std::string message = report.value("message", "");
  if (message.empty()) return {};
  return Error{static_cast<ErrorKind>(report.value("kind", 0)), 0, message};
}

}  // namespace plumb
