// GuestDisks: the VM's disks in its guest, each with a PCI slot or a SCSI target, also over the
// guest's reboots; puts disks in, and takes them out, while the guest runs.
//
// To take one out, the guest is asked. By PCI it answers, when it ejects the slot. On the SCSI bus
// it cannot: the target goes once no command has come for a while after the guest was told. A guest
// that has not let go by the deadline keeps the disk, or, with `force`, loses it: requests end with
// errors, and the claim is given up as soon as the medium has none of them any more; what the guest
// has of a PCI function stays until it ejects it, or reboots.
//
// For the control thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/scsi_lun.h"
#include "cli/event_log.h"
#include "cli/vm_disks.h"
#include "vmm/virtio/scsi.h"
#include "vmm/vm.h"

namespace plumb {

class GuestDisks {
 public:
  struct Config {
    VmDisks* disks = nullptr;  // outlives this, as do the rest
    IoThread* spare = nullptr;
    EventLog* events = nullptr;
    boost::asio::io_context* context = nullptr;
    // A disk has come, or is about to be cut off from its medium.
    std::function<void(const std::string& disk)> came;
    std::function<void(const std::string& disk)> leaves;
    uint16_t queues = 1;  // of a device
  };
  explicit GuestDisks(Config config);
  ~GuestDisks();

  // All disks into a VM that has not been started, where they were in the one before. `vm` lives
  // until guest_ended().
  Result<> add_to(Vm& vm);
  // The VM is gone, or will not be started: disks that were being taken out are out.
  void guest_ended();

  // Gives the running guest one more disk; returns {"disk", and "slot" or "target"}. Errors: those
  // of VmDisks::attach, no slot or target is free; then the source is closed.
  Result<nlohmann::json> attach(const DiskDefinition& disk, DiskSource source);

  // Asks the guest to let go, and returns; status and events tell what comes of it. Asked again,
  // only deadline and force are new. Errors: no such disk, a paused guest without `force`.
  Result<> detach(const std::string& id, std::chrono::seconds timeout, bool force);
  // The guest ejected a PCI slot.
  void ejected(unsigned slot);

  // Error kLocked for a disk that is being taken out.
  Result<> check_stays(const std::string& id) const;

  // Adds to each disk of VmDisks::status() "slot" or "target"; "state", when it is "detaching" (the
  // guest is asked), "leaving" (its last requests are at the medium: "in_flight") or "gone"
  // (closed; the guest still has its device); "refusal": why it was not detached when last asked
  // to.
  void describe(nlohmann::json& disks) const;

 private:
  enum class State : uint8_t { kInGuest, kAsked, kLeaving, kGone };
  struct Seat {
    uint64_t number = 0;  // tells it from seats of the same id before it
    std::string id;
    std::optional<unsigned> slot;   // on virtio-blk
    std::optional<uint8_t> target;  // on the SCSI bus
    std::unique_ptr<ScsiLun> lun;   // of this boot
    State state = State::kInGuest;
    bool forced = false;
    bool let_go = false;  // the guest reaches it no more
    bool idle = false;    // its medium is closed
    // While it is asked for.
    bool force = false;
    std::chrono::steady_clock::time_point deadline;
    std::chrono::steady_clock::time_point quiet_since;
    uint64_t commands = 0;
    std::unique_ptr<boost::asio::steady_timer> timer;
    std::string refusal;
  };

  Result<> seat(size_t index, bool running);
  Result<> seat_on_scsi(Seat& seat, size_t index, bool running);
  Seat* find(const std::string& id) const;
  Seat* find(uint64_t number) const;
  size_t index_of(const Seat& seat) const;
  bool is_quiet(Seat& seat);
  void wait(Seat& seat);
  void look(Seat& seat);
  void take_out(Seat& seat, bool forced);
  void medium_idle(Seat& seat);
  void finish(Seat& seat);
  // Runs `act` on the control thread, if the seat is still there then.
  std::function<void()> later(const Seat& seat, void (GuestDisks::*act)(Seat&));
  void target_removed(Seat& seat);

  const Config config_;
  Vm* vm_ = nullptr;            // between add_to() and guest_ended(), as the next
  VirtioScsi* host_ = nullptr;  // the VM's
  std::optional<unsigned> host_slot_;
  std::vector<std::unique_ptr<Seat>> seats_;
  uint64_t last_number_ = 0;
};

}  // namespace plumb
