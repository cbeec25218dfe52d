#include "cli/lun_access.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/scsi_disk.h"
#include "cli/sandbox.h"
#include "rdm/scsi_passthrough.h"

namespace plumb {
namespace {

// Commands at a LUN that are no plain transfers: those of all its guest's vCPUs together.
constexpr unsigned kSenders = 4;

Result<UniqueFd> duplicate(const DiskSource& source) {
  UniqueFd fd(::fcntl(source.fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return os_error(errno, "{} cannot be used twice", source.label);
  return fd;
}

}  // namespace

std::string missing_commands(const DiskSource& source) {
  if (!source.physical() || may_raw_io()) return "";
  return fmt::format(
      "the guest does not find SYNCHRONIZE CACHE(16), COMPARE AND WRITE and others at {}: the VM's "
      "process has no CAP_SYS_RAWIO; start the VM as root, with the mapping in its definition",
      source.label);
}

Result<std::unique_ptr<LunAccess>> LunAccess::open(const DiskSource& source,
                                                   const std::string& disk_id,
                                                   ReservationClient::Connect connect,
                                                   IoThread& thread) {
  std::unique_ptr<LunAccess> made(new LunAccess());
  UniqueFd for_broker = TRY(duplicate(source));
  made->fds_.push_back(for_broker.get());
  made->reservations_ = TRY(LunReservations::start({.disk = disk_id,
                                                    .lun = std::move(for_broker),
                                                    .connect = std::move(connect),
                                                    .at_start = drop_capabilities},
                                                   thread));
  made->transfer_limit_bytes_ = source.transfer_limit_bytes;
  made->fua_ = source.fua;
  if (!source.physical()) return made;
  if (const std::string missing = missing_commands(source); !missing.empty()) {
    log::warning("disk {}: {}", disk_id, missing);
  }
  UniqueFd for_commands = TRY(duplicate(source));
  made->fds_.push_back(for_commands.get());
  made->transport_ = std::make_unique<SgTransport>(std::move(for_commands));
  made->senders_ = TRY(WorkerThreads::start({.name = ("lun-" + disk_id).substr(0, 15),
                                             .threads = kSenders,
                                             .at_start = keep_only_raw_io}));
  return made;
}

void LunAccess::reopen(int fd) {
  for (const int old : fds_) {
    // dup(2): it can be interrupted, and meet another thread that is opening a file.
    while (::dup3(fd, old, O_CLOEXEC) < 0) ENSURE(errno == EINTR || errno == EBUSY);
  }
}

// In place of the LUN something that takes no command; the numbers stay those of their users.
void LunAccess::close() {
  Result<UniqueFd> nothing = make_eventfd();
  ENSURE(nothing.ok());
  reopen(nothing->get());
}

std::unique_ptr<ScsiLun> LunAccess::make_unit(Disk& disk, ScsiIdentity identity) {
  if (transport_ == nullptr) {
    return std::make_unique<ScsiDisk>(disk, std::move(identity), reservations_.get());
  }
  return std::make_unique<ScsiPassthrough>(
      disk, *transport_, *senders_,
      ScsiPassthrough::Config{.max_transfer_bytes = transfer_limit_bytes_,
                              .fua = fua_,
                              .reservations = reservations_.get()});
}

}  // namespace plumb
