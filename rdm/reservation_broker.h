// ReservationBroker: carries out PERSISTENT RESERVE IN and OUT for processes that may not, on the
// LUN whose descriptor they show. Who could not open a LUN for writing cannot reserve it.
//
// PR OUT goes through the kernel's IOC_PR_* (linux/pr.h), which dm-multipath carries out on every
// path that needs it; as SG_IO it would reach one path only. PR IN goes through SG_IO: a multipath
// map picks a path, and they all tell the same. Unit attentions of single paths are passed over; a
// RESERVATION CONFLICT is an answer, and nothing is sent again for it.
#pragma once

#include <sys/types.h>

#include <string_view>

#include "rdm/lun_resolver.h"
#include "rdm/reservation_protocol.h"

namespace plumb {

// The kernel, as far as the broker needs it; tests have a fake.
class ReservationKernel {
 public:
  struct Descriptor {
    bool block_device = false;
    bool readable = false;  // false also for O_PATH
    bool writable = false;
    dev_t number = 0;  // of the block device
  };

  virtual ~ReservationKernel() = default;
  virtual Result<Descriptor> describe(int fd) = 0;
  // ioctl(2): what it returns, or a negative errno. Blocks as long as the command takes.
  virtual int control(int fd, unsigned long request, void* argument) = 0;
};

class LinuxReservationKernel final : public ReservationKernel {
 public:
  Result<Descriptor> describe(int fd) override;
  int control(int fd, unsigned long request, void* argument) override;
};

// What a return value of IOC_PR_* or SG_IO means for the guest.
struct PrOutcome {
  ScsiStatus status = ScsiStatus::kGood;
  ScsiSense sense;  // for kCheckCondition
};
// `value` as ReservationKernel::control returns it. Pure; the table in the source has the reasons.
PrOutcome outcome_of(int value);
// The same for a PR OUT, where the action can tell more.
PrOutcome outcome_of(int value, PrOutAction action);

class ReservationBroker {
 public:
  // `kernel` lives longer.
  ReservationBroker(LunResolver resolver, ReservationKernel& kernel)
      : resolver_(std::move(resolver)), kernel_(kernel) {}

  // Any thread, several at once. Blocks until the LUN has answered. A refusal says what about the
  // descriptor is wrong: no block device, a partition, no LUN identity, not open for writing (PR
  // OUT). Every PR OUT is logged with `peer`, LUN, action and keys; keys are no secrets: any
  // initiator can read them with READ KEYS.
  ReservationReply serve(const ReservationRequest& request, int lun_fd, std::string_view peer);

 private:
  Result<LunId> check_lun(int lun_fd, bool for_writing);
  ReservationReply reserve_out(const ReservationRequest& request, int lun_fd);
  ReservationReply reserve_in(const ReservationRequest& request, int lun_fd);

  LunResolver resolver_;
  ReservationKernel& kernel_;
};

}  // namespace plumb
