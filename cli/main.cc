// plumb: the administrator's command. Each command is in a file of its own; a VM itself is the
// program plumb-vm (vm_main.cc).
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "cli/command.h"

namespace plumb {
namespace {

int report(const Error& error) {
  fmt::print(stderr, "plumb: {}\n", error.message);
  return exit_code_of(error.kind);
}

int run(int argc, char** argv) {
  CLI::App app{"plumb runs virtual machines whose disks are raw LUNs or image files"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "plumb " PLUMB_VERSION);
  app.footer("Each command has --help with an example. Manual: plumb(1).");
  Action action;
  add_run_command(app, action);
  add_vm_commands(app, action);
  add_console_command(app, action);
  add_lun_commands(app, action);
  add_doctor_command(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(usage_error("{}; see plumb --help", error.what()));
  }
  Result<ExitCode> result = action();
  return result ? result.value() : report(result.error());
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  try {
    return plumb::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb: an error nobody expected: {}\n", error.what());
    return plumb::kExitFailed;
  }
}
