// ScsiDisk: a SCSI disk emulated over a Disk: an image, or a LUN in virtual mode, of which the
// medium gets reads, writes, flushes and discards only. Sources: SPC-4, SBC-3.
//
// Commands run side by side, but for those in several steps that must not be seen half done
// (COMPARE AND WRITE, VERIFY, WRITE AND VERIFY, WRITE SAME of other than zeroes): each waits until
// it is alone, and later ones wait for it. What the guest can make us allocate is one buffer.
#pragma once

#include <memory>
#include <vector>

#include "blockdev/disk.h"
#include "blockdev/scsi_answer.h"
#include "blockdev/scsi_lun.h"
#include "blockdev/scsi_pages.h"
#include "blockdev/scsi_reservations.h"

namespace plumb {

class ScsiDisk final : public ScsiLun {
 public:
  // `disk` outlives this, and `reservations`, which may be none: then it has no reservations.
  ScsiDisk(Disk& disk, ScsiIdentity identity, ScsiReservations* reservations = nullptr);
  ~ScsiDisk() override;

  IoThread& thread() override { return disk_.thread(); }
  void execute(ScsiCommand& command) override;
  bool withdraw(ScsiCommand& command) override;
  void reset() override;
  void on_change(std::function<void(ScsiSense)> changed) override { changed_ = std::move(changed); }

 private:
  struct Steps;

  static Steps& steps_of(ScsiCommand& command);
  ScsiDiskFacts read_facts() const;
  void dispatch(ScsiCommand& command);
  void start(ScsiCommand& command, const ScsiOperation& operation);
  void start_next();

  void answer(ScsiCommand& command, const ScsiOperation& operation);
  void transfer(ScsiCommand& command, const ScsiOperation& operation);
  void synchronize(ScsiCommand& command);
  void reserve(ScsiCommand& command);
  void unmap(ScsiCommand& command, const ScsiOperation& operation);
  void write_same(ScsiCommand& command, const ScsiOperation& operation);
  void take_alone(ScsiCommand& command, const ScsiOperation& operation);
  void run_alone(ScsiCommand& command);
  void next_piece(ScsiCommand& command);
  void next_extent(ScsiCommand& command);
  void send_block(ScsiCommand& command, BlockOp op, uint64_t offset, uint64_t length);
  void block_done(ScsiCommand& command);
  void piece_done(ScsiCommand& command);

  void fail(ScsiCommand& command, const ScsiSense& sense);
  void fail(ScsiCommand& command, int error);
  void end(ScsiCommand& command);
  void finish(ScsiCommand& command);

  Disk& disk_;
  const ScsiIdentity identity_;
  ScsiReservations* const reservations_;
  ScsiDiskFacts facts_;  // of the disk as large as it is now
  std::function<void(ScsiSense)> changed_;
  ScsiAttentions attentions_;
  uint32_t running_ = 0;
  bool alone_ = false;              // a command runs that must be alone
  ScsiCommand* waiting_ = nullptr;  // for one that is or will be alone; in order
};

}  // namespace plumb
