// LunAccess: what a LUN on a VM's SCSI bus has beside its Disk: the way of PERSISTENT RESERVE
// commands to the broker and, in physical mode, the way of the guest's other commands to the LUN.
//
// Made while the process still has its privileges, and kept over reboots.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blockdev/scsi_pages.h"
#include "blockdev/worker_threads.h"
#include "cli/disk_source.h"
#include "rdm/lun_reservations.h"
#include "rdm/scsi_transport.h"

namespace plumb {

// What a guest would miss of a LUN in physical mode that this thread opens: a sentence; "" when
// nothing.
std::string missing_commands(const DiskSource& source);

class LunAccess {
 public:
  // Of a source that is a LUN; its descriptor is duplicated. `connect` gives connections to the
  // reservation broker; `thread`, that of the disk, outlives this. Threads that send commands keep
  // CAP_SYS_RAWIO, if there is one to keep.
  static Result<std::unique_ptr<LunAccess>> open(const DiskSource& source,
                                                 const std::string& disk_id,
                                                 ReservationClient::Connect connect,
                                                 IoThread& thread);

  // Goes on with another descriptor of the same LUN, which stays the caller's; what is on its way
  // ends where it was sent. Any thread.
  void reopen(int fd);
  // Lets go of the LUN: what comes now ends with errors. Any thread.
  void close();

  // The logical unit that the guest sees, over the disk of the same LUN; this outlives it.
  // `identity` is for one in virtual mode: in physical mode the LUN tells its own.
  std::unique_ptr<ScsiLun> make_unit(Disk& disk, ScsiIdentity identity);

 private:
  LunAccess() = default;

  std::vector<int> fds_;  // of what is below
  uint64_t transfer_limit_bytes_ = 0;
  bool fua_ = false;
  std::unique_ptr<SgTransport> transport_;  // none in virtual mode
  std::unique_ptr<WorkerThreads> senders_;
  std::unique_ptr<LunReservations> reservations_;
};

}  // namespace plumb
