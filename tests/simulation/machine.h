// Machine: one life of a simulated machine, from power on to power off: an engine in virtual time,
// the block path of each disk over it, and a driver in front. What survives it are the devices.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "blockdev/file_device.h"
#include "blockdev/io_thread.h"
#include "tests/simulation/guest_driver.h"

namespace plumb::simulation {

// What one disk is like; the same in each life, but for the driver's seed.
struct DiskPlan {
  SimDevice::Config medium;
  CacheMode cache = CacheMode::kWritethrough;
  uint32_t shared_flush_depth = 0;
  uint32_t told_alignment = 512;  // of memory, as the facts tell it: not always the truth
  ErrorPolicy on_error = ErrorPolicy::kReport;
  RateLimitConfig limit;
  GuestDriver::Config driver;
};

using Decorate =
    std::function<std::unique_ptr<IoEngine>(std::unique_ptr<IoEngine> below, SimEngine& engine)>;

// Memory for the drivers of `disks` disks; machines use it one after the other.
std::vector<std::unique_ptr<FakeGuest>> make_guests(size_t disks);

class Machine {
 public:
  struct Config {
    SimEngine::Config engine;
    std::vector<DiskPlan> disks;  // as many as the checker has
    Decorate decorate;            // puts something between the devices and the engine, if given
  };

  // `guests`: memory for one driver each. The checker and its devices, and they, outlive this.
  Machine(Config config, std::vector<std::unique_ptr<FakeGuest>>& guests, Checker& checker);
  // Powers off, if that has not happened, as a pulled plug does.
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  SimEngine& engine() { return *engine_; }
  Disk& disk(size_t index) { return *disks_[index]; }
  GuestDriver& driver(size_t index) { return *drivers_[index]; }
  size_t disks() const { return disks_.size(); }
  uint32_t outstanding() const;

  // One turn of the I/O thread; then the drivers take what was answered.
  void turn(int64_t until_ns);
  // Turns until nothing is outstanding, and retries what stops. A request that never ends is a
  // violation.
  void finish();
  // After a crash: each disk is read, and the checker told what has survived.
  void recover();
  // Resets the device and starts it again.
  void reset(size_t index);
  // Holds all disks together. A disk that is not drained in `deadline_ns` is held no longer.
  void hold(int64_t deadline_ns);
  bool held() const { return holding_; }
  void release();
  // What an administrator does about disks that an error has stopped.
  void retry();
  // From here on nothing has an effect on the devices.
  void lose_power();

 private:
  void hold_drained(size_t index, bool in_time);

  Checker& checker_;
  SimEngine* engine_ = nullptr;
  std::unique_ptr<IoThread> thread_;
  std::vector<std::unique_ptr<Disk>> disks_;
  std::vector<std::unique_ptr<GuestDriver>> drivers_;
  bool holding_ = false;
  std::vector<bool> held_;  // by disk
  size_t drained_ = 0;
};

}  // namespace plumb::simulation
