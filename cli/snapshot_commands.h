// The commands of `plumb snapshot`, which the program plumb-snapshot has.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/exit_code.h"
#include "snapshot/coordinator.h"
#include "snapshot/snapshot_set.h"

namespace plumb {

struct SnapshotCreateOptions {
  std::vector<std::string> vms;
  std::string libvirt;  // the URI, when they are guests of libvirt; "" for VMs of ours
  std::string group;    // its name; "" for a snapshot of one VM
  std::string quiesce = "fs";
  std::string require = "crash";
  std::vector<std::string> mountpoints;
  std::string note;
  std::string hooks;  // a folder; "" for none
  SnapshotLimits limits;
  bool dry_run = false;
  bool json = false;
};

// kExitWeaker when a guest's grade is weaker than asked, kExitFreeze when one may still be frozen.
Result<ExitCode> create_snapshot(const SnapshotCreateOptions& options);
Result<ExitCode> list_snapshots(const std::string& vm, bool json);
Result<ExitCode> show_snapshot(const std::string& id, bool json);
Result<ExitCode> delete_snapshots(const std::vector<std::string>& ids);
// A disk of a snapshot by its name, "ID/DISK", or of a group "ID/VM/DISK".
Result<SnapshotDisk> find_snapshot_disk(const std::string& name);
// Shows a disk of that name to this host, read-only, and prints where.
Result<ExitCode> map_snapshot(const std::string& disk_name, bool json);
Result<ExitCode> unmap_snapshot(const std::string& disk_name);
struct NbdServeOptions {
  std::vector<std::string> targets;  // as open_nbd_sources() takes them
  std::string socket;                // the path of a Unix socket, or
  std::string listen;                // a TCP address
  std::string tls_psk;               // a file of keys; "": no TLS
  bool insecure = false;             // who can connect may do all
  bool writable = false;
};
// Serves disks by NBD until SIGINT, SIGTERM or SIGHUP.
Result<ExitCode> serve_nbd(const NbdServeOptions& options);
struct SnapshotRevertOptions {
  std::string id;
  std::string vm;                  // of a group's; "" for all
  std::vector<std::string> disks;  // empty for all
  std::string hooks;               // a folder; "" for none
  bool discard_present = false;
  bool dry_run = false;
  bool json = false;
};
// kExitWeaker when a hook failed after the disks were restored.
Result<ExitCode> revert_to_snapshot(const SnapshotRevertOptions& options);
// kExitFailed when something is left that cannot be removed now.
Result<ExitCode> recover_snapshots();

}  // namespace plumb
