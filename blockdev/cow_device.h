// CowDevice: keeps a snapshot of the disk below it. Before a write reaches a grain whose old
// content the overlay does not have, that content is read, written to the overlay and made durable,
// then recorded in the overlay's table, durably, and only then the write goes on. Reads pass. A
// write over grains that are kept costs a test of their bits.
//
// docs/formats/cow-overlay.md has the write order, docs/decisions/0013-copy-before-write.md the
// reasons. Several writes to one grain wait in order; neighbours that one request needs are copied
// as one. The copies in flight, with their buffers, are bounded and made up front; what needs more
// waits here.
//
// A discard that touches a grain which is not kept ends well and does nothing: it frees no more
// than the copy would take.
//
// When the overlay is full or fails, the snapshot is broken and the guest goes on: the mark is
// written first, and the writes that wait pass after it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned_memory.h"
#include "blockdev/block_device.h"
#include "blockdev/block_request_list.h"
#include "blockdev/cow_overlay.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"

namespace plumb {

// A snapshot was given up, and with it those older than it.
struct CowBreak {
  std::string reason;
  bool marked = true;  // false: the overlay does not say so; see CowDevice::go_on()
};

class CowDevice final : public BlockDevice, private BatchEnd {
 public:
  struct Config {
    // On the I/O thread, at most once. May be empty; then nobody calls go_on(), nor needs to.
    std::function<void(const CowBreak&)> broken;
    // What becomes of a snapshot when old content cannot be read from the disk. True: it is broken,
    // and the write goes on. False: the write fails with the error of the read, for a disk that
    // keeps and repeats what failed (ErrorPolicy::kPause).
    bool unreadable_breaks = true;
  };
  using Written = std::move_only_function<void(Result<>)>;
  struct Parts {
    std::unique_ptr<BlockDevice> below;    // the disk
    std::unique_ptr<BlockDevice> overlay;  // the overlay's file
  };

  // `overlay`: as format_cow_overlay() made it or open_cow_overlay() found it. `thread` outlives
  // this; both devices work on it.
  CowDevice(Parts parts, CowOverlay overlay, Config config, IoThread& thread);
  // Nothing may be in flight.
  ~CowDevice() override;

  const BlockInfo& info() const override { return parts_.below->info(); }
  Result<> reread_size() override { return parts_.below->reread_size(); }
  bool must_see_changes() const override { return true; }
  void submit(BlockRequest& request) override;

  // --- Only on the I/O thread ---

  // The snapshot that it keeps.
  const std::string& uuid() const { return overlay_.header.uuid; }
  // Of grains.
  uint64_t kept_bytes() const { return overlay_.table.kept() * overlay_.header.grain_bytes; }
  // Given up; writes pass.
  bool is_broken() const { return condition_ != Condition::kWhole; }

  // After Config::broken with `marked` unset, the writes that met it, and others to grains that are
  // not kept, wait for this. Before it, the owner sees to it that nobody reads the snapshot, now or
  // after a crash, when the overlay would look whole: CowKeeper does.
  void go_on();

  // Records the overlay's condition, durably, and calls `written`, later; the disk is held, nothing
  // in flight. A snapshot that is broken is recorded as that, whatever is asked. Error: the overlay
  // cannot be written.
  void record(CowState state, Written written);

  // Gives up both devices; nothing in flight. What is left may only be destroyed.
  Parts take_apart();

 private:
  enum class Condition : uint8_t {
    kWhole,
    kBreaking,  // the mark waits for the copies to end, or is being written
    kUnmarked,  // waits for go_on()
    kBroken,
  };
  enum class Step : uint8_t { kIdle, kReading, kWriting, kCopied, kRecording };
  struct Copy;
  struct Record;
  struct Range {  // of grains
    uint64_t first = 0;
    uint64_t end = 0;
  };

  static void copy_done(BlockRequest& request);
  static void table_done(BlockRequest& request);
  static void state_done(BlockRequest& request);
  static void run_later(IoOp& op);
  Range grains_of(const BlockRequest& request) const;
  bool passes(const BlockRequest& request) const;
  void end_later(BlockRequest& request);
  void call_later();
  void tell_written();
  void start_copies();
  bool start_copies_for(const BlockRequest& request);
  uint64_t first_to_copy(uint64_t first, uint64_t end) const;
  bool start_copy(uint64_t first, uint64_t end);
  bool busy() const { return copies_busy_ > 0 || table_busy_; }
  void was_read(Copy& copy);
  void unreadable(Copy& copy);
  void release(Copy& copy);
  void batch_end() override;
  void recorded(int error);
  void pass_waiting();
  void fail_waiting();
  void give_up(std::string reason);
  void settle();
  void write_state(const CowState& state);
  void marked(int error);

  Parts parts_;
  CowOverlay overlay_;
  const Config config_;
  IoThread& thread_;
  const uint64_t data_at_;
  const int grain_shift_;  // of bytes to grains: asked for each write
  const uint32_t copy_bytes_;

  Condition condition_ = Condition::kWhole;
  std::string reason_;
  int read_error_ = 0;  // of the disk: what waits fails with it once no copy is in flight
  BlockRequestList waiting_;
  BlockRequestList ended_;
  IoOp later_;  // runs run_later()
  bool later_asked_ = false;

  AlignedMemory buffers_;
  std::vector<Copy> copies_;
  uint32_t copies_busy_ = 0;
  uint64_t grains_busy_ = 0;  // in copies
  std::unique_ptr<Record> table_;
  bool table_busy_ = false;
  uint64_t table_page_ = 0;
  std::unique_ptr<Record> state_;
  bool state_busy_ = false;
  Written written_;
};

}  // namespace plumb
