// ScsiPassthrough: a LUN in physical mode. cdb_policy.h decides about each command:
//   plain reads, writes and flushes go to the Disk, with all that it promises and limits;
//   what else may pass goes to the LUN as it is, from a worker thread, and the LUN answers;
//   the rest is answered here, by the reservation broker, or refused.
//
// Commands that change the medium are requests of the Disk all the same (BlockRequest::elsewhere):
// they wait while it is held or stopped, a hold waits for their end, and in writethrough mode the
// LUN's cache is flushed before they end well.
#pragma once

#include <memory>

#include "blockdev/disk.h"
#include "blockdev/scsi_answer.h"
#include "blockdev/scsi_reservations.h"
#include "blockdev/worker_threads.h"
#include "rdm/lun_answers.h"
#include "rdm/scsi_transport.h"

namespace plumb {

class ScsiPassthrough final : public ScsiLun {
 public:
  struct Config {
    uint64_t max_transfer_bytes = 0;           // of what goes by the transport
    bool fua = false;                          // the LUN takes FUA and DPO, and the host uses them
    ScsiReservations* reservations = nullptr;  // none: PERSISTENT RESERVE is refused
  };
  // `disk`, `transport`, `workers` and the reservations outlive this; the disk is the same LUN.
  ScsiPassthrough(Disk& disk, ScsiTransport& transport, WorkerThreads& workers, Config config);
  ~ScsiPassthrough() override;

  IoThread& thread() override { return disk_.thread(); }
  void execute(ScsiCommand& command) override;
  // A command at the LUN is not taken back: it ends when the LUN answers, or its time is over.
  bool withdraw(ScsiCommand& command) override;
  // The LUN itself is not reset: other hosts use it.
  void reset() override { attentions_.restart(sense::kDeviceReset); }
  void on_change(std::function<void(ScsiSense)> changed) override { changed_ = std::move(changed); }

 private:
  struct Passing;

  ScsiGeometry geometry() const;
  bool is_plain(const ScsiCommand& command, ScsiOperation& operation) const;
  void use_engine(ScsiCommand& command, const CdbVerdict& verdict);
  void emulate(ScsiCommand& command);
  void reserve(ScsiCommand& command);
  void pass(ScsiCommand& command, const CdbVerdict& verdict);
  void pass_change(ScsiCommand& command, const CdbVerdict& verdict);
  static void carry_out(Passing& passing);
  void passed(ScsiCommand& command);
  static void block_done(BlockRequest& request);
  void fail(ScsiCommand& command, const ScsiSense& sense);
  void end(ScsiCommand& command);

  Disk& disk_;
  ScsiTransport& transport_;
  WorkerThreads& workers_;
  const Config config_;
  const LunView view_;
  const bool flushes_;  // a change is in a volatile cache, and is to be durable
  ScsiAttentions attentions_;
  std::function<void(ScsiSense)> changed_;
  uint32_t running_ = 0;
};

}  // namespace plumb
