#include "blockdev/mem_device.h"

#include <algorithm>
#include <cstring>

namespace plumb {

MemDevice::MemDevice(const BlockInfo& info, IoThread& thread)
    : info_(info), thread_(thread), bytes_(info.size_bytes) {
  later_.owner = this;
  later_.done = run_later;
}

void MemDevice::submit(BlockRequest& request) {
  waiting_.push(request);
  if (later_asked_) return;
  later_asked_ = true;
  thread_.defer(later_);
}

void MemDevice::run_later(IoOp& op) {
  MemDevice& device = *static_cast<MemDevice*>(op.owner);
  device.later_asked_ = false;
  BlockRequestList requests;
  requests.push_all(device.waiting_);
  while (BlockRequest* request = requests.pop()) {
    device.perform(*request);
    request->error = 0;
    request->done(*request);
  }
}

void MemDevice::perform(BlockRequest& request) {
  std::byte* at = bytes_.data() + request.offset;
  switch (request.op) {
    case BlockOp::kRead:
    case BlockOp::kWrite:
      for (uint32_t i = 0; i < request.iov_count; ++i) {
        const iovec& part = request.iov[i];
        if (request.op == BlockOp::kRead) {
          std::memcpy(part.iov_base, at, part.iov_len);
        } else {
          std::memcpy(at, part.iov_base, part.iov_len);
        }
        at += part.iov_len;
      }
      break;
    case BlockOp::kDiscard:
    case BlockOp::kWriteZeroes:
      std::fill_n(at, request.length, std::byte{0});
      break;
    case BlockOp::kFlush:
      break;
  }
}

}  // namespace plumb
