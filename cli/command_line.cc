#include "cli/command_line.h"

#include <fmt/core.h>

#include <filesystem>
#include <string_view>

#include "base/nearest.h"

namespace plumb {
namespace {

int report(const Error& error) {
  fmt::print(stderr, "plumb: {}\n", error.message);
  return exit_code_of(error.kind);
}

// What is wrong when no command was understood, or more than one: `name` is "plumb" or "plumb lun".
Error unknown_command(const CLI::App& app, const std::string& name) {
  const std::vector<std::string> rest = app.remaining();
  const std::vector<CLI::App*> given = app.get_subcommands();
  if (rest.empty() && !given.empty()) {
    return unknown_command(*given.front(), name + " " + given.front()->get_name());
  }
  if (rest.empty()) return usage_error("a command is missing; see {} --help", name);
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  const std::vector<std::string_view> known(names.begin(), names.end());
  return usage_error("there is no command '{} {}'{}; see {} --help", name, rest.front(),
                     nearest_hint(rest.front(), known), name);
}

}  // namespace

CLI::App* add_command(CLI::App& app, const char* name, const char* help, const char* example) {
  CLI::App* command = app.add_subcommand(name, help);
  command->footer(std::string("Example: ") + example);
  return command;
}

int run_command_line(CLI::App& app, const std::vector<const char*>& groups, const Action& action,
                     int argc, char** argv) {
  // An unknown command is answered in our own words; an unknown flag of a command by CLI11.
  app.allow_extras();
  for (const char* group : groups) app.get_subcommand(group)->allow_extras();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(usage_error("{}; see plumb --help", error.what()));
  }
  if (!action || !app.remaining(true).empty()) return report(unknown_command(app, "plumb"));
  Result<ExitCode> result = action();
  return result ? result.value() : report(result.error());
}

std::string program_beside(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / name).string();
}

}  // namespace plumb
