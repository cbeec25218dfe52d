// Guests of libvirt for `plumb snapshot`: their watchdogs (libvirt_watchdog.h), which it starts,
// and what those leave behind when they are killed.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/runtime_folder.h"
#include "snapshot/recovery.h"

namespace plumb {

// Where the watchdog of a guest keeps its files: as a VM of ours, in a folder whose name is made of
// the two texts.
struct LibvirtGuestPaths {
  LibvirtGuestPaths(const std::string& uri, const std::string& domain);
  // `runtime_name`: one that the other made, "libvirt/UUID".
  explicit LibvirtGuestPaths(const std::string& runtime_name);

  std::string name;  // for the functions of runtime_folder.h
  RuntimePaths files;
  std::string domain;     // {"uri", "domain"}
  std::string suspended;  // not empty while the guest may be suspended
};

// A connection to the lease of a guest, whose watchdog is started. Errors are the watchdog's.
Result<UniqueFd> connect_to_libvirt_lease(const std::string& uri, const std::string& domain);

// Thaws and resumes guests whose watchdogs were killed. One that cannot be now is told to until it
// can; its sentence is not clean.
std::vector<Recovered> recover_libvirt_guests();

}  // namespace plumb
