// VmProcess: everything a running VM consists of, built bottom-up in reading order: runtime folder,
// disks, consoles, control API, and over these the Vm, once per boot of the guest.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/definition.h"
#include "cli/disk_source.h"
#include "cli/exit_code.h"
#include "cli/terminal.h"
#include "vmm/char_hub.h"
#include "vmm/control_api.h"
#include "vmm/vm.h"

namespace plumb {

class VmProcess {
 public:
  // Claims everything the VM needs and starts the guest. With `foreground` the console is on
  // standard input and output.
  static Result<std::unique_ptr<VmProcess>> start(VmDefinition definition, bool foreground);
  ~VmProcess();

  // Serves the VM until it ends. Only once.
  Result<ExitCode> run();

 private:
  VmProcess(VmDefinition definition, bool foreground);
  Result<> open_disks();
  Result<> open_consoles();
  Result<> open_control_api();
  Result<> boot();
  Result<> add_devices(Vm& vm);
  void on_stop(const Vm::Stopped& stopped);
  void await_signal();
  void on_signal(int signal);
  void press_power_button(const char* asked_by);
  void end(ExitCode code);
  nlohmann::json status() const;

  const VmDefinition definition_;
  const bool foreground_;
  std::optional<RawTerminal> terminal_;
  UniqueFd lock_;
  std::vector<OpenDisk> disks_;
  std::unique_ptr<IoThread> misc_thread_;  // consoles, network, random numbers
  std::unique_ptr<CharHub> console_;
  std::unique_ptr<CharHub> agent_;
  boost::asio::io_context context_;
  boost::asio::signal_set signals_;
  std::unique_ptr<ControlApi> api_;
  std::unique_ptr<Vm> vm_;
  int signal_ = 0;  // that asked the VM to end
  std::optional<Result<ExitCode>> result_;
};

}  // namespace plumb
