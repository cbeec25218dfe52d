// The commands of `plumb`: each file adds its own to the parser and stores what to run.
#pragma once

#include <functional>
#include <string>

#include "cli/exit_code.h"

namespace CLI {
class App;
}

namespace plumb {

// What the chosen command does; an Error is printed as one line and gives the exit code.
using Action = std::function<Result<ExitCode>()>;

void add_run_command(CLI::App& app, Action& action);
void add_vm_commands(CLI::App& app, Action& action);  // ps, stop, kill, pause, resume
void add_console_command(CLI::App& app, Action& action);
void add_lun_commands(CLI::App& app, Action& action);
void add_doctor_command(CLI::App& app, Action& action);

}  // namespace plumb
