// VmDisks: the disks of a running VM, as its process and its control API see them: those of its
// definition, and those that were attached later.
//
// A disk of the definition has an I/O thread of its own (those on the SCSI bus share one). One that
// is attached later cannot: a running VM may make no ring. On the SCSI bus it works on that bus's
// thread, else on the disk thread with the fewest disks, and in a VM without disks on the thread of
// the other devices.
//
// For the control thread, but for the call-back.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/cow_keeper.h"
#include "blockdev/disk.h"
#include "blockdev/file_device.h"
#include "blockdev/io_thread.h"
#include "cli/definition.h"
#include "cli/disk_source.h"
#include "cli/lun_access.h"
#include "vmm/guest_memory.h"

namespace plumb {

// Puts a layer between the devices and the engine of an I/O thread; empty: none. For tests.
using EngineDecorator = decltype(IoThread::Config::decorate);

class VmDisks {
 public:
  // A request of a disk failed; on the disk's I/O thread.
  struct Failure {
    std::string disk;
    std::string message;   // a sentence about it
    int error = 0;         // errno
    bool stopped = false;  // the disk keeps it, and sends nothing more
  };
  using Failed = std::function<void(const Failure& failure)>;

  static constexpr int kRetrySeconds = 30;

  // Takes the definition's sources, in its order, and makes a disk of each on an I/O thread of its
  // own; those on the SCSI bus share one.
  struct Config {
    Failed failed;
    // Snapshots that the VM keeps of a disk are lost; any thread.
    std::function<void(const std::string& disk, const std::string& why)> snapshots_lost;
    std::function<Result<UniqueFd>()> connect_to_broker;  // of reservations; any thread
    EngineDecorator decorate;
  };
  static Result<VmDisks> open(const VmDefinition& definition, std::vector<DiskSource> sources,
                              Config config);

  size_t count() const { return disks_.size(); }
  Disk& at(size_t index) { return *disks_[index].disk; }
  const DiskDefinition& definition_of(size_t index) const { return disks_[index].definition; }
  std::optional<size_t> index_of(const std::string& id) const;
  // "" for an image.
  const std::string& wwn_of(size_t index) const { return disks_[index].wwn; }
  // Where its content is: {"id", "device": a path, "wwn": "" for an image, "size_bytes",
  // "read_only", "not_kept": why the VM can keep no snapshots of it, or "", and of an image
  // "st_dev", "st_ino"}.
  nlohmann::json medium_of(size_t index) const;
  // The logical unit of a disk on the SCSI bus, as a new guest sees it.
  std::unique_ptr<ScsiLun> make_scsi_unit(size_t index);
  // Of the disks on the SCSI bus: they share one; nullptr when there never was any.
  IoThread* scsi_thread() { return scsi_thread_; }

  // Takes another disk, the last one from now on; `spare` is the thread for when none has a disk.
  // Errors: an id or a LUN that the VM has already, an engine that the thread does not have.
  Result<> attach(const DiskDefinition& disk, DiskSource source, IoThread& spare);
  // Takes the medium from under a disk: requests end with EIO. Once the medium has none of them
  // any more, `idle` is called, on the disk's I/O thread, and close() may follow. Not twice.
  void cut_off(size_t index, std::function<void()> idle);
  // Requests that the medium still has.
  uint32_t in_flight(size_t index);
  // Closes the medium, and with it the claim and the mapping's lock; the disk itself stays, cut
  // off.
  void close(size_t index);
  // Forgets a disk that nothing uses any more, closed or not; those after it move up.
  void remove(size_t index);

  // Snapshots that the VM keeps itself. The disk's, on its I/O thread.
  CowKeeper& keeper_of(size_t index) { return *disks_[index].keeper; }
  // A new overlay for it.
  Result<CowKeeper::OpenOverlay> examine_overlay(size_t index, UniqueFd overlay,
                                                 const std::string& label) const;
  // At the end, after drain(): what the disks are like is recorded in their overlays. An error
  // names the first disk of which that did not come to its end within `seconds`.
  Result<> end_overlays(int seconds);

  // Calls `act` on each I/O thread, up to the first error.
  Result<> on_each_thread(const std::function<Result<>()>& act);

  // Registers a guest's memory with the I/O threads, or takes it back; no device may work. Errors:
  // RLIMIT_MEMLOCK, or an engine that cannot; then no thread has it.
  Result<> add_memory(const GuestMemory& memory);
  void remove_memory();

  // Sends what errors left undone on images; LUNs are retried one by one, when they are well.
  void retry_images();

  // Of a disk that is a LUN.
  struct LunView {
    std::string wwn;
    std::string device;  // the path behind it now
    ClaimOptions claim;
    bool discard = true;
    bool pauses = true;  // on-error = pause
    unsigned path_timeout_s = 0;
  };
  LunView lun_of(const std::string& disk) const;
  // Its descriptor, which stays the disk's: the same until reopen().
  int fd_of(const std::string& disk) const;
  const DiskStats& stats_of(const std::string& disk) const;
  // Lets nothing of the disk reach its LUN until retry().
  void stop(const std::string& disk);
  // Whether errors of the disk pause the VM from now on; without, what it keeps ends in errors.
  void set_pauses(const std::string& disk, bool pauses);
  // Goes on with `source`, the same LUN as another device, once what is at the old one has come
  // back. Calls `reopened`, on the I/O thread: with an error when it has not in kRetrySeconds, or
  // the source does not fit; then it is closed, and all is as before. Sends nothing.
  using Reopened = std::move_only_function<void(Result<>)>;
  void reopen(const std::string& disk, DiskSource source, Reopened reopened);
  // What status() and lun_of() say of the device from now on.
  void set_device(const std::string& disk, const std::string& device);
  // Sends what was left undone, and calls `retried` on the I/O thread once it has all come back:
  // with an error when that is not so in kRetrySeconds; `stopped`: a request failed again.
  using Retried = std::move_only_function<void(Result<>, bool stopped)>;
  void retry(const std::string& disk, Retried retried);

  // Lets no more requests reach the devices, for good, and waits until what is there has come back.
  // An error names the first disk of which that is not so within `seconds`.
  Result<> drain(int seconds);

  // Grows an image to `size_bytes`; 0 only looks how large the LUN or image is now. The guest is
  // told. Returns the new size. Errors: no such disk, a LUN with a size, a size that is smaller or
  // no multiple of the block size, a medium that has shrunk.
  Result<uint64_t> resize(const std::string& id, uint64_t size_bytes);

  nlohmann::json status() const;
  // Prometheus text format 0.0.4.
  std::string metrics(const std::string& vm) const;

 private:
  struct Open {
    DiskDefinition definition;
    std::string label;   // "image root.img", "LUN naa.…"
    std::string device;  // the path behind it now
    std::string wwn;     // of a LUN
    UniqueFd mapping;    // the lock of a mapping file; none without one
    ClaimOptions claim;  // of a LUN
    IoThread* thread = nullptr;
    FileDevice* under = nullptr;        // the disk's
    std::unique_ptr<CowKeeper> keeper;  // lives longer than the disk
    std::unique_ptr<LunAccess> access;  // of a LUN on the SCSI bus
    std::unique_ptr<Disk> disk;

    bool physical = false;

    bool is_lun() const { return !wwn.empty(); }
  };
  const Open& find(const std::string& disk) const;
  Result<IoThread*> thread_for(const VmDefinition& definition, const DiskDefinition& disk,
                               const EngineDecorator& decorate);
  Result<IoThread*> thread_for_later(const DiskDefinition& disk, IoThread& spare);
  Result<> open_one(const DiskDefinition& disk, DiskSource source, IoThread& thread);
  std::unique_ptr<CowKeeper> make_keeper(const DiskDefinition& disk,
                                         const DiskSource& source) const;
  static uint64_t size_of(const Open& open);
  static const char* not_kept(const Open& open);
  bool end_overlay(Open& open, int seconds);

  Config config_;
  std::vector<std::unique_ptr<IoThread>> threads_;
  IoThread* scsi_thread_ = nullptr;
  std::string scsi_engine_;  // what the first of its disks asks for
  std::vector<Open> disks_;
};

}  // namespace plumb
