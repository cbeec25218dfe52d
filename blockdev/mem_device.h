// MemDevice: a block device in memory, for tests and as the model that others are compared with.
// A discarded block reads as zeroes.
#pragma once

#include <cstddef>
#include <vector>

#include "blockdev/block_device.h"
#include "blockdev/block_request_list.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"

namespace plumb {

class MemDevice final : public BlockDevice {
 public:
  // `info` says what to offer; size_bytes bytes are taken and zeroed. `thread` outlives it.
  MemDevice(const BlockInfo& info, IoThread& thread);

  const BlockInfo& info() const override { return info_; }
  void submit(BlockRequest& request) override;

  // The content; to be looked at while nothing is in flight.
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  static void run_later(IoOp& op);
  void perform(BlockRequest& request);

  BlockInfo info_;
  IoThread& thread_;
  std::vector<std::byte> bytes_;
  BlockRequestList waiting_;
  IoOp later_;
  bool later_asked_ = false;
};

}  // namespace plumb
