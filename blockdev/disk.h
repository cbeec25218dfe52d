// Disk: the whole stack of block devices as a front end (virtio-blk, NBD, backup) sees it.
//
// It checks the contract of every request, makes writes durable, keeps to rate limits, counts, and
// can hold: drain and park, the one primitive that snapshot, resize, detach and error-stop use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/block_device.h"
#include "blockdev/block_request_list.h"
#include "blockdev/disk_stats.h"
#include "blockdev/io_engine.h"
#include "blockdev/io_thread.h"
#include "blockdev/rate_limit.h"

namespace plumb {

enum class CacheMode : uint8_t {
  kWritethrough,  // a completed write is on the medium: every write is sent durable
  kWriteback,     // a completed write may be lost until a flush completes; must be asked for
};

enum class ErrorPolicy : uint8_t {
  kReport,  // the front end gets the error
  kPause,   // the request is kept, the disk stops, and retry() goes on with it
};

// A request that failed at the device.
struct DiskError {
  BlockOp op = BlockOp::kRead;
  uint64_t offset = 0;
  uint64_t length = 0;
  int error = 0;          // errno
  bool stopped = false;   // the disk stopped and waits for retry()
  uint64_t unspoken = 0;  // errors since the last one told of; one a second is
};

class Disk {
 public:
  struct Config {
    std::string id;      // unique in a VM: "root", "data"
    std::string serial;  // at most 20 bytes; what the guest sees; "" takes the id
    CacheMode cache = CacheMode::kWritethrough;
    ErrorPolicy on_error = ErrorPolicy::kReport;
    RateLimitConfig limit;
    std::function<void(const DiskError&)> failed;  // on thread()
  };
  using Drained = std::move_only_function<void(Result<>)>;

  // `thread` outlives the disk. The device works on that thread.
  Disk(Config config, std::unique_ptr<BlockDevice> device, IoThread& thread);
  // No request may be in flight, and the thread must not be running requests of this disk.
  ~Disk();

  const Config& config() const { return config_; }
  const BlockInfo& info() const { return device_->info(); }
  IoThread& thread() { return thread_; }
  const DiskStats& stats() const { return stats_; }

  // --- Only on thread() ---

  // As BlockDevice::submit, with the contract checked: a request outside info() ends with EINVAL
  // (range, alignment, unknown limits) or EROFS through its done(), never an abort. In
  // writethrough mode every write, discard and write-zeroes is made durable. While held, stopped or
  // over a rate limit, requests wait.
  void submit(BlockRequest& request);

  // Requests that reached the device and have not come back.
  uint32_t in_flight() const { return in_flight_; }

  // Stops new requests from reaching the device, and calls `drained` later, once nothing is in
  // flight; or, when that is not so at `deadline_ns` (of thread().turn_ns(); kForever: none), with
  // an error, and then this hold has ended. release() ends a hold; with the last one parked and
  // later requests pass, and `drained` calls that are still due are dropped. Holds nest.
  void hold(int64_t deadline_ns, Drained drained);
  void release();

  // Whether an error stopped the disk (ErrorPolicy::kPause), or stop() did.
  bool stopped() const { return stopped_; }
  // Lets no request reach the device until retry(), as an error would.
  void stop() { stopped_ = true; }
  // Sends what an error left undone, and lets the rest pass. Harmless when not stopped.
  void retry();
  // What errors do from now on. With kReport, the requests that are kept end with their errors, and
  // a disk that an error stopped goes on.
  void set_on_error(ErrorPolicy policy);

  // Takes back a submitted request that waits here: true, and its done() is not called any more.
  // False when it is at the device.
  bool withdraw(BlockRequest& request);

  // For good: every request that waits here, or comes from now on, ends with EIO without reaching
  // the device; one that is there ends as it does. Once none is, `idle` is called, later, and the
  // device can be replaced. Not twice.
  void cut_off(std::function<void()> idle);

  // Puts `device` in the place of the present one, which is returned; nothing may be in flight. The
  // front end is told when the size differs; of the rest it knows what the first device was.
  std::unique_ptr<BlockDevice> replace_device(std::unique_ptr<BlockDevice> device);

  // Looks again how large the device is (BlockDevice::reread_size), and tells the front end.
  Result<> reread_size();
  // Called when info().size_bytes has changed; one front end.
  void on_resize(std::function<void()> resized) { resized_ = std::move(resized); }

 private:
  struct Hold {
    int64_t deadline_ns = 0;
    Drained drained;
  };

  static void finished(BlockRequest& request);
  static void run_later(IoOp& op);
  int contract_error(const BlockRequest& request) const;
  int transfer_error(const BlockRequest& request) const;
  bool may_pass();
  void send(BlockRequest& request);
  void send_parked();
  bool stops_for(const BlockRequest& request) const;
  void note_error(const BlockRequest& request, bool stop);
  void keep(BlockRequest& request);
  void call_later();
  void set_hold_timer();
  void end_late_holds();
  void refuse(BlockRequest& request, int error);
  void give_back(BlockRequest& request);

  Config config_;
  std::unique_ptr<BlockDevice> device_;
  IoThread& thread_;
  RateLimit limit_;
  DiskStats stats_;
  std::function<void()> resized_;

  uint32_t in_flight_ = 0;
  uint32_t holds_ = 0;
  bool stopped_ = false;
  bool cut_off_ = false;
  BlockRequestList kept_;            // failed; sent again by retry()
  BlockRequestList parked_;          // wait for the end of the holds, or for the limit
  BlockRequestList refused_;         // broke the contract; done() is due in the next turn
  std::vector<Hold> waiting_holds_;  // due once nothing is in flight
  IoTimer hold_timer_;               // the first deadline of waiting_holds_
  IoTimer limit_timer_;              // sends what is parked
  IoOp later_;                       // runs run_later()
  bool later_asked_ = false;
  int64_t last_told_ns_ = INT64_MIN;  // of errors
  uint64_t unspoken_ = 0;
};

}  // namespace plumb
