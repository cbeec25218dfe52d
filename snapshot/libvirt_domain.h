// LibvirtDomain: one guest of libvirt, as its watchdog needs it; the seam between us and libvirt
// (libvirt_connection.h), which a test's domain replaces.
//
// Blocks; any thread, several at once. An error's os_errno tells what is known: 0, libvirt or the
// guest's agent refused; ETIMEDOUT, the agent did not answer, and may still do what was asked;
// EPIPE, libvirt's daemon is gone, and the next call tries to reach it again.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "snapshot/guest_agent_protocol.h"

namespace plumb {

class LibvirtDomain {
 public:
  enum class State : uint8_t { kOff, kRunning, kPaused };
  virtual ~LibvirtDomain() = default;

  // kOff also of one that libvirt does not know any more.
  virtual Result<State> state() = 0;
  // How long the agent's answers are waited for from now on; none: as libvirt does by itself, which
  // is for ever. Libvirt keeps this with the domain, for all its clients.
  virtual Result<> set_agent_timeout(std::optional<std::chrono::seconds> timeout) = 0;
  virtual Result<GuestOs> os() = 0;
  // Refused by a guest that is frozen.
  virtual Result<std::vector<GuestFileSystem>> file_systems() = 0;
  // Those at `mountpoints`, or, when that is empty, all. Returns how many.
  virtual Result<unsigned> freeze(const std::vector<std::string>& mountpoints) = 0;
  // None when the guest is not frozen.
  virtual Result<unsigned> thaw() = 0;
  virtual Result<> suspend() = 0;
  virtual Result<> resume() = 0;
};

// Whether the URI is of QEMU on this host, whose disks are here too: "qemu:///system",
// "qemu+unix:///session?socket=…". Error kUsage. Pure.
Result<> check_libvirt_uri(std::string_view uri);

}  // namespace plumb
