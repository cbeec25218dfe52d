// FileDevice: a raw image or a block device, by O_DIRECT through the I/O thread's engine.
//
// A durable write is one operation with RWF_DSYNC and nothing more, but where the kernel would
// flush for each (FileFacts::shared_flush_depth): there, many in flight share flushes of ours.
// A durable discard or write-zeroes is followed by a flush too, because the kernel gives those no
// such flag. One flush is under way at a time; what comes meanwhile shares the next. Short
// transfers go on where they ended, EINTR and EAGAIN are tried again, and buffers that O_DIRECT
// does not take (EINVAL) are bounced. A flush that failed with writes at stake fails for ever: what
// it should have written may be gone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/aligned_memory.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/block_device.h"
#include "blockdev/block_request_list.h"
#include "blockdev/file_facts.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"

namespace plumb {

class FileDevice final : public BlockDevice, private BatchEnd {
 public:
  struct Config {
    UniqueFd fd;        // open and claimed (locked, exclusive) by the caller; kept open here
    std::string label;  // names the file in errors: its path, or its WWN
    bool read_only = false;
    bool discard = true;  // offer discard where the file system or the device can
  };

  // What a device over a descriptor will be; sets the descriptor to direct I/O. Errors: what
  // find_file_facts() refuses, no direct I/O, a read-only descriptor without `read_only`.
  static Result<FileFacts> examine(const FileFactsQuery& query);
  // Examines it first. `thread` outlives the device. Not on `thread`'s data path: it may block.
  static Result<std::unique_ptr<FileDevice>> open(Config config, IoThread& thread);
  // Over facts that the caller knows: from another process, or of a simulated file.
  FileDevice(Config config, const FileFacts& facts, IoThread& thread);
  // Nothing may be in flight.
  ~FileDevice() override;

  // Goes on with another descriptor of the same file or LUN, examined as `facts`; what is known of
  // failed flushes stays. Nothing may be in flight. Errors: other blocks, or smaller; then nothing
  // changes. Only on the I/O thread.
  Result<> reopen(UniqueFd fd, const FileFacts& facts);

  // Stays the device's. Only on the I/O thread.
  int fd() const { return fd_.get(); }

  const BlockInfo& info() const override { return info_; }
  Result<> reread_size() override;
  void submit(BlockRequest& request) override;

 private:
  void set_file();
  enum class Step : uint8_t {
    kTransfer,     // read or write, straight from the request's buffers
    kBounce,       // read or write of one piece through an aligned buffer
    kRange,        // discard or zero a range
    kWriteZeroes,  // the range by writing zeroes, piece by piece
    kFlush,        // waits for a flush
  };
  struct Slot;

  static void completed(IoOp& op);
  static void flush_completed(IoOp& op);
  void start(Slot& slot, BlockRequest& request);
  void start_write(Slot& slot);
  bool share_flushes();
  void stop_sharing(Slot& slot);
  void start_transfer(Slot& slot);
  void start_range(Slot& slot);
  void await_flush(Slot& slot);
  void batch_end() override;
  void flushed(int error);
  void send(Slot& slot);
  void send_bounce(Slot& slot);
  void send_zero_piece(Slot& slot);
  void advance(Slot& slot);
  void transferred(Slot& slot);
  void bounced(Slot& slot);
  void range_ended(Slot& slot);
  void retry(Slot& slot, int error);
  void finish(Slot& slot, int error);
  bool aligned(const BlockRequest& request) const;

  UniqueFd fd_;
  std::string label_;
  BlockInfo info_;
  const bool block_device_;
  const uint32_t shared_flush_depth_;  // 0: writes never share flushes
  IoThread& thread_;
  IoFile file_;

  std::vector<Slot> slots_;
  Slot* free_ = nullptr;
  BlockRequestList waiting_;  // no slot free

  // Of durable writes, where they may share flushes.
  uint32_t durable_writes_ = 0;  // in flight
  uint32_t window_writes_ = 0;   // begun in this window of kFlushWindow
  uint32_t window_depth_ = 0;    // the most in flight in it
  uint32_t depth_ = 0;           // in the window before
  uint32_t moving_ = 0;          // that will share a flush, once they have ended

  IoOp flush_;
  Slot* awaiting_flush_ = nullptr;  // the next one
  uint32_t writes_awaiting_ = 0;    // of those
  bool others_awaiting_ = false;    // a flush, or a range
  Slot* flushing_ = nullptr;        // the one under way; nullptr: none is
  uint64_t flush_ended_ = 0;        // ended_ when it was sent
  uint32_t flush_retries_ = 0;

  bool unmap_zeroes_ = true;     // the kernel can zero by unmapping
  bool zero_range_ = true;       // the file system can zero a range
  uint64_t begun_ = 0;           // changes that need a flush to be durable
  uint64_t ended_ = 0;           // of them, well or not
  uint64_t flushed_ = 0;         // of those, the ones that a flush has reached
  uint64_t flushes_failed_ = 0;  // so far
  int failed_flush_ = 0;         // errno of the first that failed with some at stake
  AlignedMemory zeroes_;         // kZeroPieceBytes, made when first needed
};

}  // namespace plumb
