// What the command lines of all our programs share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/exit_code.h"

namespace plumb {

// What the command that was given does; set by its call-back.
using Action = std::function<Result<ExitCode>()>;

CLI::App* add_command(CLI::App& app, const char* name, const char* help, const char* example);

// Parses, and does what was asked; returns the exit code. An unknown command, also of one of
// `groups`, is answered with the nearest known one, and an error is one line on standard error.
int run_command_line(CLI::App& app, const std::vector<const char*>& groups, const Action& action,
                     int argc, char** argv);

// The path of a program of ours, which is installed, and built, beside this one.
std::string program_beside(const std::string& name);

}  // namespace plumb
