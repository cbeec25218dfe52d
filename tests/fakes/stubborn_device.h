// A disk in memory that keeps requests back, or fails them, while a test wants it to.
#pragma once

#include <deque>
#include <vector>

#include "blockdev/mem_device.h"

namespace plumb {

// Memory that can keep requests back, and fail them.
class StubbornDevice final : public BlockDevice {
 public:
  StubbornDevice(const BlockInfo& info, IoThread& thread)
      : memory(with_room(info), thread), info_(info), thread_(thread) {}
  const BlockInfo& info() const override { return info_; }
  Result<> reread_size() override {
    info_.size_bytes = grown_bytes == 0 ? info_.size_bytes : grown_bytes;
    return {};
  }
  void submit(BlockRequest& request) override {
    sent.push_back({request.op, request.durable, request.may_unmap});
    if (error != 0) {
      request.error = error;
      failing = &request;
      return thread_fail();
    }
    if (keep) {
      kept.push_back(&request);
    } else {
      memory.submit(request);
    }
  }
  void let_go() {
    keep = false;
    while (!kept.empty()) {
      memory.submit(*kept.front());
      kept.pop_front();
    }
  }

  struct Sent {
    BlockOp op;
    bool durable;
    bool may_unmap;
  };
  MemDevice memory;
  std::deque<BlockRequest*> kept;
  std::vector<Sent> sent;
  bool keep = false;
  uint64_t grown_bytes = 0;  // its size from the next reread_size() on; up to kRoomBytes more
  int error = 0;

 private:
  static constexpr uint64_t kRoomBytes = 1U << 20U;

  static BlockInfo with_room(BlockInfo info) {
    info.size_bytes += kRoomBytes;
    return info;
  }
  void thread_fail() {
    later_.owner = this;
    later_.done = [](IoOp& op) {
      BlockRequest& request = *static_cast<StubbornDevice*>(op.owner)->failing;
      request.done(request);
    };
    thread_.defer(later_);
  }
  BlockInfo info_;
  IoThread& thread_;
  BlockRequest* failing = nullptr;
  IoOp later_;
};

}  // namespace plumb
