#include "cli/start_report.h"

#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

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
