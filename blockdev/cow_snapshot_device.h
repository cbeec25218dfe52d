// CowSnapshotDevice: a snapshot as a read-only disk, for another VM or for serving it: a CowReader
// on a thread of its own, since it blocks.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "blockdev/block_device.h"
#include "blockdev/block_request_list.h"
#include "blockdev/cow_reader.h"
#include "blockdev/io_thread.h"
#include "blockdev/worker_threads.h"

namespace plumb {

class CowSnapshotDevice final : public BlockDevice {
 public:
  // `block_size`: of the disk that the snapshot is of. `thread` outlives the device. Errors: no
  // thread can be made.
  static Result<std::unique_ptr<CowSnapshotDevice>> open(std::unique_ptr<CowReader> reader,
                                                         uint32_t block_size, IoThread& thread);
  // Nothing may be in flight.
  ~CowSnapshotDevice() override;

  const BlockInfo& info() const override { return info_; }
  // Reads; as many at once as it has room for, the others wait. An error of the reader is EIO, and
  // logged once.
  void submit(BlockRequest& request) override;

 private:
  struct Read;
  CowSnapshotDevice(std::unique_ptr<CowReader> reader, uint32_t block_size, IoThread& thread);
  static void run(WorkerThreads::Job& job);
  void finished(Read& read);

  const std::unique_ptr<CowReader> reader_;
  IoThread& thread_;
  BlockInfo info_;
  bool told_ = false;  // of an error; on the worker thread
  std::unique_ptr<WorkerThreads> worker_;
  std::vector<Read> reads_;
  Read* idle_ = nullptr;
  BlockRequestList waiting_;
  uint32_t running_ = 0;
};

}  // namespace plumb
