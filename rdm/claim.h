// Claiming a LUN: proves that nobody on this host uses it, opens it exclusively, and verifies on
// the open descriptor that it is the LUN asked for.
//
// The kernel's exclusive open (O_EXCL on a block device) is held as long as the descriptor lives:
// mounts, swapon, device-mapper, md and other claims then fail with EBUSY. It does not stop a
// plain write by root; nothing on Linux does.
//
// A shared claim is for VMs whose guests know of each other (cluster file systems). The kernel
// knows no shared exclusive open, so it holds a read lock (OFD) on the device node instead: other
// shared claims get theirs beside it, and an exclusive claim, which looks for one once it has its
// exclusive open, is refused. While a shared claim takes its lock it has the LUN exclusively: so it
// is refused when anybody has, and no exclusive claim comes in between. What shared claims do not
// stop: a mount by this host after them, and a claim through another node of the same device (made
// by mknod).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "rdm/lun_resolver.h"

namespace plumb {

struct ClaimOptions {
  bool read_only = false;
  bool allow_weak_identity = false;
  bool shared = false;  // beside other shared claims; without O_EXCL
};

struct ClaimedLun {
  UniqueFd fd;  // O_DIRECT, and O_EXCL unless shared
  Lun lun;
};

// Errors, each with what to do: unknown, ambiguous or weak identity; read-only or empty LUN; LUN or
// one of its partitions mounted, swap, or held by device-mapper, LVM, md; claimed elsewhere
// (kLocked; the holder is named when it can be seen); a device that changed between look-up and
// open.
Result<ClaimedLun> claim_lun(const LunResolver& resolver, const LunId& id,
                             const ClaimOptions& options);

// Why the LUN cannot be claimed now, or nothing: "mounted on /srv", "swap", "held by dm-3 (LVM…)".
std::optional<std::string> use_of(const Lun& lun, const SystemRoots& roots);

// Where the text of /proc/self/mountinfo says that the block device `name` ("sdb1"), major:minor
// `number` ("8:17"), is mounted. Pure.
std::optional<std::string> mount_point_in(std::string_view mountinfo, std::string_view name,
                                          std::string_view number);

// Whether the text of /proc/swaps lists the block device `name`. Pure.
bool is_swap_in(std::string_view swaps, std::string_view name);

}  // namespace plumb
