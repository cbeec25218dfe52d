// Disk: the whole stack of block devices as a front end (virtio-blk, NBD, backup) sees it.
//
// It checks the contract of every request, counts what is in flight, and can hold: drain and
// park, the one primitive that snapshot, resize, detach and error-stop use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/block_device.h"
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

  // Stops new requests from reaching the device, and calls `drained` on thread() once nothing is
  // in flight. release() lets parked and later requests pass. Holds nest. Only on thread().
  void hold(std::move_only_function<void()> drained);
  void release();

 private:
  static void finished(BlockRequest& request);
  int contract_error(const BlockRequest& request) const;
  void send(BlockRequest& request);

  Config config_;
  std::unique_ptr<BlockDevice> device_;
  IoThread& thread_;
  uint32_t in_flight_ = 0;
  uint32_t holds_ = 0;
  // The rest belongs to disk.cc; see there.
};

}  // namespace plumb
