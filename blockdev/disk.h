// Disk: the whole stack of block devices as a front end (virtio-blk, NBD, backup) sees it.
//
// It checks the contract of every request, counts what is in flight, and can hold: drain and
// park, the one primitive that snapshot, resize, detach and error-stop use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/block_device.h"
#include "blockdev/block_request_list.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"

namespace plumb {

enum class CacheMode : uint8_t {
  kWritethrough,  // a completed write is on the medium: every write is sent durable
  kWriteback,     // a completed write may be lost until a flush completes; must be asked for
};

class Disk {
 public:
  struct Config {
    std::string id;      // unique in a VM: "root", "data"
    std::string serial;  // at most 20 bytes; what the guest sees; "" takes the id
    CacheMode cache = CacheMode::kWritethrough;
  };

  // `thread` outlives the disk. The device works on that thread.
  Disk(Config config, std::unique_ptr<BlockDevice> device, IoThread& thread);
  // No request may be in flight, and the thread must not be running requests of this disk.
  ~Disk();

  const Config& config() const { return config_; }
  const BlockInfo& info() const { return device_->info(); }
  IoThread& thread() { return thread_; }

  // As BlockDevice::submit, with the contract checked: a request outside info() ends with EINVAL
  // (range, alignment, unknown limits) or EROFS through its done(), never an abort. In
  // writethrough mode every write, discard and write-zeroes is made durable. While held, requests
  // wait. Only on thread().
  void submit(BlockRequest& request);

  // Requests that reached the device and have not come back. Only on thread().
  uint32_t in_flight() const { return in_flight_; }

  // Stops new requests from reaching the device, and calls `drained` later on thread(), once
  // nothing is in flight. release() lets parked and later requests pass; when it ends the last
  // hold, `drained` calls that are still due are dropped. Holds nest. Only on thread().
  void hold(std::move_only_function<void()> drained);
  void release();

  // Takes back a submitted request that is parked by a hold: true, and its done() is not called
  // any more. False when it has reached the device. Only on thread().
  bool withdraw(BlockRequest& request);

 private:
  static void finished(BlockRequest& request);
  static void run_later(IoOp& op);
  int contract_error(const BlockRequest& request) const;
  int transfer_error(const BlockRequest& request) const;
  void send(BlockRequest& request);
  void call_later();
  void give_back(BlockRequest& request);

  Config config_;
  std::unique_ptr<BlockDevice> device_;
  IoThread& thread_;
  uint32_t in_flight_ = 0;
  uint32_t holds_ = 0;
  BlockRequestList parked_;   // wait for the end of the holds
  BlockRequestList refused_;  // broke the contract; done() is due in the next turn
  std::vector<std::move_only_function<void()>> drained_;  // due once nothing is in flight
  IoOp later_;                                            // runs run_later()
  bool later_asked_ = false;
};

}  // namespace plumb
