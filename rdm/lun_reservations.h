// LunReservations: a guest's PERSISTENT RESERVE commands, carried out by the reservation broker, on
// a thread of their own: one may take a minute.
#pragma once

#include <memory>
#include <string>

#include "blockdev/io_thread.h"
#include "blockdev/scsi_reservations.h"
#include "blockdev/worker_threads.h"
#include "rdm/reservation_client.h"

namespace plumb {

class LunReservations final : public ScsiReservations {
 public:
  struct Config {
    std::string disk;  // for messages
    UniqueFd lun;      // open for writing, unless the guest may only read
    ReservationClient::Connect connect;
    std::function<Result<>()>
        at_start;  // on the new thread, which needs no privilege; may be empty
  };
  // `thread`, that of the logical unit, outlives this. Errors: no thread can be made; at_start's.
  static Result<std::unique_ptr<LunReservations>> start(Config config, IoThread& thread);

  // What the LUN answers, faithfully. Without the broker the command ends with 04/44/00 (internal
  // target failure); when its answer did not come, so that nobody knows whether it was carried out,
  // or it refuses, with 0B/08/00 (communication failure). The log has the first of such errors in a
  // row.
  void execute(ScsiCommand& command, ScsiCommand::Done finished) override;

 private:
  struct Work;
  LunReservations(Config config, IoThread& thread)
      : disk_(std::move(config.disk)),
        lun_(std::move(config.lun)),
        client_(std::move(config.connect)),
        thread_(thread) {}
  void carry_out(Work& work);

  const std::string disk_;
  const UniqueFd lun_;
  ReservationClient client_;  // of the worker thread
  bool failing_ = false;      // of the worker thread: the last command met no broker
  IoThread& thread_;
  std::unique_ptr<WorkerThreads> worker_;
};

}  // namespace plumb
