// plumb-libvirt: the watchdog of one guest of libvirt (libvirt_watchdog.h); `plumb snapshot` starts
// it. A program of its own, so that nothing else of plumb is linked with libvirt.
#include <fmt/core.h>
#include <sys/prctl.h>

#include <charconv>
#include <csignal>
#include <exception>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "cli/libvirt_watchdog.h"
#include "cli/start_report.h"

namespace plumb {
namespace {

int number_of(std::string_view text) {
  int number = -1;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

int run(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "plumb-libvirt is started by `plumb snapshot create --libvirt`\n");
    return kExitUsage;
  }
  log::configure(fmt::format("plumb-libvirt[{}]", argv[2]), log::Level::kInfo);
  std::signal(SIGPIPE, SIG_IGN);
  // It starts no program.
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  int status_fd = number_of(argv[3]);
  const auto report = [&status_fd](const Error& error) {
    report_start(status_fd, error);
    if (status_fd >= 0) ::close(std::exchange(status_fd, -1));
  };
  Result<ExitCode> result = watch_libvirt_guest(argv[1], argv[2], [&] { report(Error{}); });
  if (result) return result.value();
  report(result.error());
  log::error("{}", result.error().message);
  return exit_code_of(result.error().kind);
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  try {
    return plumb::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb-libvirt: an error nobody expected: {}\n", error.what());
    return plumb::kExitFailed;
  }
}
