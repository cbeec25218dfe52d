// plumb run: reads the definition of a VM, and becomes (or, detached, starts) its process.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/definition.h"
#include "cli/runtime_folder.h"
#include "cli/start_report.h"

namespace plumb {
namespace {

// The file first, then the flags over it; disks and nets of both.
Result<VmDefinition> definition_of(const RunOptions& options) {
  VmDefinition definition;
  if (!options.file.empty()) {
    const std::string text = TRY(read_file(options.file));
    TRY(read_toml(text, options.file, definition));
  }
  for (const auto& [key, value] : options.keys) {
    if (!value.empty()) TRY(set_key(definition, key, value));
  }
  for (const auto& [key, given] : options.switches) {
    if (given) TRY(set_key(definition, key, "true"));
  }
  for (const std::string& text : options.disks) {
    definition.disks.push_back(TRY(parse_disk_flag(text, DiskFlag::kImage)));
  }
  for (const std::string& text : options.luns) {
    definition.disks.push_back(TRY(parse_disk_flag(text, DiskFlag::kLun)));
  }
  for (const std::string& text : options.rdms) {
    definition.disks.push_back(TRY(parse_disk_flag(text, DiskFlag::kRdm)));
  }
  for (const std::string& text : options.nets) {
    definition.nets.push_back(TRY(parse_net_flag(text)));
  }
  TRY(complete(definition));
  // What is recorded of a VM, and told to others, holds wherever they are.
  for (DiskDefinition& disk : definition.disks) {
    for (std::string* path : {&disk.image, &disk.rdm}) {
      if (!path->empty()) *path = std::filesystem::absolute(*path).string();
    }
  }
  return definition;
}

// The VM's process reads its definition from here: nothing of it is on a command line, where every
// user of the host could read it.
Result<UniqueFd> definition_fd(const VmDefinition& definition) {
  UniqueFd fd(::memfd_create("definition", 0));  // survives exec
  if (!fd) return os_error(errno, "a memory file cannot be made");
  const std::string text = to_json(definition).dump();
  if (::pwrite(fd.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return os_error(errno, "the definition cannot be handed over");
  }
  return fd;
}

Error exec_vm(const std::string& vm_name, int definition, int status, bool verbose) {
  const std::string program = program_beside("plumb-vm");
  const std::string definition_text = std::to_string(definition);
  const std::string status_text = std::to_string(status);
  const char* const arguments[] = {"plumb-vm",
                                   vm_name.c_str(),
                                   definition_text.c_str(),
                                   status_text.c_str(),
                                   verbose ? "verbose" : nullptr,
                                   nullptr};
  ::execv(program.c_str(), const_cast<char* const*>(arguments));
  return os_error(errno, "{} cannot be started", program);
}

Result<ExitCode> run_detached(const VmDefinition& definition, int definition_fd, bool verbose) {
  int ends[2];
  if (::pipe(ends) != 0) return os_error(errno, "a pipe cannot be made");
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return os_error(errno, "a process for VM '{}' cannot be made", definition.name);
  if (child == 0) {
    read_end.reset();
    Result<> left = leave_terminal(definition.name);
    const Error error = left ? exec_vm(definition.name, definition_fd, write_end.get(), verbose)
                             : std::move(left).error();
    report_start(write_end.get(), error);
    ::_exit(kExitFailed);
  }
  write_end.reset();
  TRY(await_start(read_end.get(), definition.name));
  fmt::print("{} runs as pid {}\n", definition.name, child);
  return kExitOk;
}

}  // namespace

Result<ExitCode> run_vm(const RunOptions& options) {
  const VmDefinition definition = TRY(definition_of(options));
  if (const pid_t pid = running_pid(definition.name); pid != 0) {
    return make_error(ErrorKind::kLocked,
                      "VM '{}' runs already, as pid {}; stop it or give another --name",
                      definition.name, pid);
  }
  const UniqueFd fd = TRY(definition_fd(definition));
  if (options.detach) return run_detached(definition, fd.get(), options.verbose);
  return exec_vm(definition.name, fd.get(), -1, options.verbose);
}

}  // namespace plumb
