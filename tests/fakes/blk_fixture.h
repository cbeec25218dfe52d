// A VirtioBlk on a disk in memory, and a driver for it.
#pragma once

#include <memory>
#include <vector>

#include "blockdev/mem_device.h"
#include "tests/fakes/fake_driver.h"
#include "vmm/virtio/blk.h"

namespace plumb {

inline constexpr uint64_t kBlkFixtureBytes = 4U << 20U;

// A memory device that notes what reaches it, and can keep or fail it.
class SpyDevice final : public BlockDevice {
 public:
  struct Seen {
    BlockOp op;
    bool durable;
  };
  struct Control {
    std::vector<Seen> seen;  // the rest: only on the I/O thread
    std::vector<BlockRequest*> kept;
    bool keep = false;
    int fail = 0;
    uint64_t grow_to = 0;  // the size that reread_size() finds
  };
  SpyDevice(const BlockInfo& info, IoThread& thread, Control& control)
      : memory_(info, thread), info_(info), control_(control) {}
  const BlockInfo& info() const override { return info_; }
  Result<> reread_size() override {
    info_.size_bytes = control_.grow_to;
    return {};
  }
  void submit(BlockRequest& request) override {
    control_.seen.push_back({request.op, request.durable});
    if (control_.keep || control_.fail != 0) {
      control_.kept.push_back(&request);
    } else {
      memory_.submit(request);
    }
  }

 private:
  MemDevice memory_;
  BlockInfo info_;
  Control& control_;
};

struct BlkFixture {
  explicit BlkFixture(CacheMode cache = CacheMode::kWritethrough, uint16_t queues = 1,
                      BlockInfo info = usual_info())
      : BlkFixture({.id = "data", .serial = "SERIAL-1", .cache = cache}, queues, info) {}
  explicit BlkFixture(Disk::Config config, uint16_t queues = 1, BlockInfo info = usual_info()) {
    disk = std::make_unique<Disk>(std::move(config),
                                  std::make_unique<SpyDevice>(info, *thread, control), *thread);
    blk = std::make_unique<VirtioBlk>(*disk, queues);
    driver = std::make_unique<FakeDriver>(guest, *blk);
  }
  static BlockInfo usual_info() {
    BlockInfo info;
    info.size_bytes = kBlkFixtureBytes;
    info.max_discard_bytes = 1U << 20U;
    info.max_write_zeroes_bytes = 1U << 20U;
    info.discard_granularity = 4096;
    return info;
  }
  GuestBuffer header(uint32_t type, uint64_t sector) {
    struct {
      uint32_t type;
      uint32_t reserved;
      uint64_t sector;
    } value{type, 0, sector};
    return guest.place(value);
  }
  // Sends one request and waits for its answer; returns the status byte.
  uint8_t request(const GuestBuffer& head, const GuestBuffer* out, const GuestBuffer* in) {
    const GuestBuffer status = guest.allocate(1);
    status.fill(0xff);
    ChainBuilder chain = driver->queue().chain();
    chain.readable(head);
    if (out != nullptr) chain.readable(*out);
    if (in != nullptr) chain.writable(*in);
    chain.writable(status).send();
    last_used = driver->queue().wait_used();
    return status.byte();
  }
  uint8_t read(uint64_t sector, const GuestBuffer& to) {
    return request(header(0, sector), nullptr, &to);
  }
  uint8_t write(uint64_t sector, const GuestBuffer& from) {
    return request(header(1, sector), &from, nullptr);
  }
  uint8_t flush() { return request(header(4, 0), nullptr, nullptr); }
  uint8_t range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    struct {
      uint64_t sector;
      uint32_t sectors;
      uint32_t flags;
    } value{sector, sectors, flags};
    const GuestBuffer segment = guest.place(value);
    return request(header(type, 0), &segment, nullptr);
  }
  void on_thread(IoThread::Task task) { thread->run(std::move(task)); }
  // Ends what the device kept, the last first.
  void let_go(int error = 0) {
    on_thread([&] {
      while (!control.kept.empty()) {
        BlockRequest* request = control.kept.back();
        control.kept.pop_back();
        request->error = error;
        request->done(*request);
      }
    });
  }
  // Once that many requests wait in the device.
  void wait_kept(size_t count) {
    for (size_t kept = 0; kept < count;) on_thread([&] { kept = control.kept.size(); });
  }

  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  SpyDevice::Control control;
  FakeGuest guest{32U << 20U};
  std::unique_ptr<Disk> disk;
  std::unique_ptr<VirtioBlk> blk;
  std::unique_ptr<FakeDriver> driver;
  FakeQueue::Used last_used;
};

}  // namespace plumb
