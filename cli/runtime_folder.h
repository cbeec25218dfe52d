// The runtime folder of a VM, ${PLUMB_RUN_DIR:-/run/plumb}/NAME: its lock, sockets and log.
//
// A VM runs exactly as long as its process holds the lock; everything else there may be left over.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// ${PLUMB_RUN_DIR:-/run/plumb}
std::string runtime_root();

// ${PLUMB_STATE_DIR:-/var/lib/plumb}: what lasts: records, and the overlays of snapshots.
std::string state_root();
std::string overlay_folder();

struct RuntimePaths {
  explicit RuntimePaths(const std::string& vm_name)
      : folder(runtime_root() + "/" + vm_name),
        lock(folder + "/lock"),
        control(folder + "/control.sock"),
        console(folder + "/console.sock"),
        agent(folder + "/agent.sock"),
        disks(folder + "/disks.sock"),
        lease(folder + "/lease.sock"),
        freeze(folder + "/freeze"),
        log(folder + "/log") {}

  std::string folder;
  std::string lock;  // locked by the VM's process; its pid inside
  std::string control;
  std::string console;
  std::string agent;
  std::string disks;   // takes disks (attach_socket.h)
  std::string lease;   // freezes the guest and holds its disks (snapshot/freeze_lease.h)
  std::string freeze;  // not empty while the guest may be frozen
  std::string log;     // of a detached VM
};

// Of the records of snapshots and of templates, with their journals, of the journals of new disks,
// and of generation ids.
std::string snapshot_folder();
std::string template_folder();
std::string disk_journal_folder();
std::string generation_folder();

// Makes the folder (mode 0700) and takes its lock, for the life of the descriptor. Error kLocked
// with the holder's pid when the VM runs already.
Result<UniqueFd> lock_runtime_folder(const std::string& vm_name);

// The pid of the VM's process; 0 when it does not run.
pid_t running_pid(const std::string& vm_name);

// Names of the VMs that run, sorted.
std::vector<std::string> running_vms();

}  // namespace plumb
