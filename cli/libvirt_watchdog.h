// The watchdog of a guest of libvirt: what plumb-libvirt is. It freezes the guest and holds its
// disks for who connects to its lease.sock, and sees to it that both end (snapshot/freeze_lease.h),
// as the process of a VM of ours does; then it ends itself.
//
// A guest that its journals say was left frozen or suspended is let go first; then it ends.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "cli/exit_code.h"

namespace plumb {

// `started`: the lease can be had. Error kinds: kUsage, kNotFound, kLocked (another watchdog has
// the guest), kFailed (libvirt, or a disk that cannot be copied).
Result<ExitCode> watch_libvirt_guest(const std::string& uri, const std::string& domain,
                                     const std::function<void()>& started);

}  // namespace plumb
