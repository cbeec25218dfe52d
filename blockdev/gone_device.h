// GoneDevice: what a disk has that was cut off (Disk::cut_off) in the place of its device, which is
// closed: it is as large as that was, and takes no request.
#pragma once

#include "blockdev/block_device.h"

namespace plumb {

class GoneDevice final : public BlockDevice {
 public:
  explicit GoneDevice(const BlockInfo& was) : info_(was) {}
  const BlockInfo& info() const override { return info_; }
  // A disk that is cut off sends nothing.
  void submit(BlockRequest& /*request*/) override { ENSURE(false); }

 private:
  const BlockInfo info_;
};

}  // namespace plumb
