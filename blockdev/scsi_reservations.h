// ScsiReservations: what carries out a logical unit's PERSISTENT RESERVE IN and OUT. Plugged in
// from above (rdm/lun_reservations.h): only a LUN that other hosts see has any.
#pragma once

#include "blockdev/scsi_lun.h"

namespace plumb {

class ScsiReservations {
 public:
  virtual ~ScsiReservations() = default;

  // Carries out `command`, a PERSISTENT RESERVE that the guest may send, sets what done() needs,
  // and calls `finished` later, from the loop, once. It may take a minute and cannot be taken back.
  // Only on the logical unit's thread.
  virtual void execute(ScsiCommand& command, ScsiCommand::Done finished) = 0;
};

}  // namespace plumb
