// What a VM's process gives up once it has what it needs: a guest that breaks out of its devices
// finds a process that can open no file, start no program, make no connection, and has no
// capabilities, though its user may still be root.
//
// Two steps. give_up_privileges() comes when everything that needs a privilege or a path is open
// and before any thread is made, because it holds for the calling thread and the ones it makes.
// restrict_system_calls() comes when the guest runs, for all threads; what is not allowed fails
// with EPERM rather than ending a VM that works.
#pragma once

#include <string>

#include "base/result.h"

namespace plumb {

struct KeptCapabilities {
  bool memory_lock = false;  // CAP_IPC_LOCK: io_uring registers memory beyond RLIMIT_MEMLOCK
  bool raw_io = false;       // CAP_SYS_RAWIO: SG_IO takes all commands
};

// Drops all capabilities but `kept`, which those threads have that are made before the next
// drop_capabilities(), and the way back to them. Leaves, of the file system (Landlock): the
// sockets in `runtime_folder`, and reading of sysfs and of what procfs tells about this kernel.
// A kernel without Landlock is told in the log.
Result<> give_up_privileges(const std::string& runtime_folder, KeptCapabilities kept = {});

// Drops what capabilities the calling thread has left: all, or all but CAP_SYS_RAWIO.
Result<> drop_capabilities();
Result<> keep_only_raw_io();
// Whether the calling thread has CAP_SYS_RAWIO, or may have it.
bool may_raw_io();

// Whether this kernel has Landlock, and uses it.
bool have_landlock();

// The same two steps for plumb-pr-broker. Leaves of capabilities CAP_SYS_ADMIN and CAP_SYS_RAWIO,
// of the file system the reading of sysfs, and no system call that opens a connection or starts a
// program. Before any other thread.
Result<> give_up_broker_privileges();
Result<> restrict_broker_system_calls();

// The same two steps for a server of disks. Leaves of the file system, unless they are "", the
// removal of its socket and what is to be read below `readable`, whoever's it is; no system call
// that opens a connection or starts a program. `writable`: also those that write and discard what
// is open.
Result<> give_up_server_privileges(const std::string& socket_folder, const std::string& readable);
Result<> restrict_server_system_calls(bool writable);

// The same two steps for the keeper of LUNs. Leaves no capability, of the file system the reading
// of sysfs and procfs and what the user may open below /dev, and no system call that starts a
// program or makes a thread or process.
Result<> give_up_keeper_privileges();
Result<> restrict_keeper_system_calls();

// Leaves the system calls that run a guest, serve its devices, and start it again after a reboot.
Result<> restrict_system_calls();

}  // namespace plumb
