// The commands of `plumb`: what each does, apart from its options, which main.cc defines. An Error
// is printed as one line there and gives the exit code.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/exit_code.h"

namespace plumb {

struct RunOptions {
  std::string file;                         // the definition, "" for none
  std::map<std::string, std::string> keys;  // VM keys given as flags; "" is not given
  std::map<std::string, bool> switches;
  std::vector<std::string> disks;
  std::vector<std::string> luns;
  std::vector<std::string> rdms;
  std::vector<std::string> nets;
  bool detach = false;
  bool verbose = false;
};

// In the foreground this process becomes the VM's and the call does not return.
Result<ExitCode> run_vm(const RunOptions& options);

Result<ExitCode> list_vms(bool json);
// Presses the power button; after the timeout the VM is killed and the code is kExitWeaker.
Result<ExitCode> stop_vm(const std::string& name, int timeout_s);
// At once: through the VM's API, and by a signal when that does not answer.
Result<ExitCode> kill_vm(const std::string& name);
// `target` is "/vm/pause" or "/vm/resume".
Result<ExitCode> change_state(const std::string& name, const std::string& target);
Result<ExitCode> attach_console(const std::string& name);

Result<ExitCode> list_disks(const std::string& vm_name, bool json);
// `size` "" only looks how large the LUN or image is now.
Result<ExitCode> resize_disk(const std::string& vm_name, const std::string& disk,
                             const std::string& size);
struct AttachOptions {
  std::string vm;
  std::string id;
  std::string snapshot;                     // "ID/DISK" in place of a source; "" for none
  std::map<std::string, std::string> keys;  // disk keys given as flags; "" is not given
  std::map<std::string, bool> switches;
};
// Opens, claims and locks as run_vm() does, and hands over.
Result<ExitCode> attach_disk(const AttachOptions& options);
// Waits until the guest has let go, or the VM has given up asking. kExitWeaker when the guest lost
// a disk that it still used.
Result<ExitCode> detach_disk(const std::string& vm_name, const std::string& disk, int timeout_s,
                             bool force);
Result<ExitCode> create_image(const std::string& path, const std::string& size, bool sparse);

Result<ExitCode> list_luns(bool json);
Result<ExitCode> show_lun(const std::string& wwn, bool json);

struct RdmOptions {
  std::string file;
  std::string wwn;
  std::string mode = "virtual";  // or "physical"
  bool shared = false;
  bool allow_weak_identity = false;
  bool replace = false;
};
Result<ExitCode> create_rdm(const RdmOptions& options);
Result<ExitCode> show_rdm(const std::string& file, bool json);
// kExitFailed, with a sentence for each, when something speaks against using the mapping's LUN.
Result<ExitCode> verify_rdm(const std::string& file, bool json);

// kExitFailed when VMs cannot run on this host.
Result<ExitCode> examine_host(bool json);

}  // namespace plumb
