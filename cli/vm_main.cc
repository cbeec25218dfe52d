#include "cli/vm_main.h"

#include <fmt/core.h>

#include <charconv>
#include <csignal>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "cli/definition.h"
#include "cli/start_report.h"
#include "cli/vm_process.h"

namespace plumb {
namespace {

int number_of(const char* text) {
  int number = -1;
  std::from_chars(text, text + std::string_view(text).size(), number);
  return number;
}

Result<VmDefinition> read_definition(int fd) {
  const std::string text = TRY(read_file("/proc/self/fd/" + std::to_string(fd)));
  ::close(fd);
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded()) return failed("the VM definition handed over is not JSON");
  return from_json(json);
}

// `status_fd` becomes -1 once the start is reported.
Result<ExitCode> run(int definition_fd, int& status_fd, const EngineDecorator& decorate) {
  const VmDefinition definition = TRY(read_definition(definition_fd));
  const bool foreground = status_fd < 0;
  const auto started = [&status_fd] {
    report_start(status_fd, Error{});
    if (status_fd >= 0) ::close(std::exchange(status_fd, -1));
  };
  return serve_vm(definition, foreground, started, decorate);
}

int run_main(int argc, char** argv, const EngineDecorator& decorate) {
  if (argc < 4) {
    fmt::print(stderr, "plumb-vm is started by `plumb run`; see plumb run --help\n");
    return kExitUsage;
  }
  const bool verbose = argc > 4 && std::string_view(argv[4]) == "verbose";
  int status_fd = number_of(argv[3]);
  log::configure(fmt::format("plumb-vm[{}]", argv[1]),
                 verbose ? log::Level::kDebug : log::Level::kInfo);
  ::signal(SIGPIPE, SIG_IGN);
  Result<ExitCode> result = run(number_of(argv[2]), status_fd, decorate);
  if (result) return result.value();
  report_start(status_fd, result.error());
  fmt::print(stderr, "plumb: {}\n", result.error().message);
  return exit_code_of(result.error().kind);
}

}  // namespace

int vm_main(int argc, char** argv, const EngineDecorator& decorate) {
  try {
    return run_main(argc, argv, decorate);
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb-vm: an error nobody expected: {}\n", error.what());
    return kExitFailed;
  }
}

}  // namespace plumb
