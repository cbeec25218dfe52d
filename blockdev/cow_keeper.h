// CowKeeper: the copy-before-write snapshot that a disk keeps, from the start of its VM to its end:
// puts overlays into the disk and takes them out (cow_switch.h), and sees to it that one which is
// given up is not taken for whole (CowDevice::go_on).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/cow_switch.h"

namespace plumb {

class CowKeeper {
 public:
  struct Config {
    std::string disk;               // what it is (CowHeader::disk)
    bool unreadable_breaks = true;  // CowDevice::Config
    // Snapshots were given up; any thread. May be empty.
    std::function<void(const std::string& why)> broken;
  };
  using Done = std::move_only_function<void(Result<>)>;

  explicit CowKeeper(Config config);
  // After the disk.
  ~CowKeeper();
  CowKeeper(const CowKeeper&) = delete;
  CowKeeper& operator=(const CowKeeper&) = delete;

  // Before there is a Disk: `below` with the overlay over it, which goes on to keep its snapshot.
  // `overlay`: locked and open, or none. Blocks. Errors: the overlay cannot be read, or is of
  // another disk.
  Result<std::unique_ptr<BlockDevice>> start(std::unique_ptr<BlockDevice> below, UniqueFd overlay,
                                             IoThread& thread);

  // A new overlay, for keep(). Blocks. Errors: it is none, is of another disk, or cannot be read.
  struct OpenOverlay {
    std::unique_ptr<BlockDevice> device;
    CowOverlay content;
    UniqueFd fd;
  };
  Result<OpenOverlay> examine(UniqueFd overlay, const std::string& label, uint64_t disk_bytes,
                              IoThread& thread) const;

  // --- Only on the disk's I/O thread; but for busy() and kept_bytes(), while the disk is held and
  // drained, and one at a time. `done` is called there, later. ---

  // The disk as it is now is the content of a new snapshot.
  void keep(Disk& disk, OpenOverlay overlay, Done done);
  // When the overlay is that of `uuid`, the disk goes on without one: its snapshot was deleted, and
  // no older one needs it.
  void let_go(Disk& disk, const std::string& uuid, Done done);
  // The VM ends, or the disk leaves it: what the disk is like is recorded.
  void end(Disk& disk, const CowBaseStamp& base, Done done);

  // One of the above is under way.
  bool busy() const { return busy_; }
  // Calls `idle` once nothing is: now, or later.
  void when_idle(std::function<void()> idle);
  // The overlay's UUID; "" without one.
  std::string uuid() const { return present_ == nullptr ? "" : present_->uuid(); }
  uint64_t kept_bytes() const { return present_ == nullptr ? 0 : present_->kept_bytes(); }

 private:
  Result<OpenOverlay> load(UniqueFd overlay, const std::string& label, IoThread& thread) const;
  CowDevice::Config device_config();
  void finish(Disk& disk, CowState last, Done done);
  void ended(Result<> result, Done& done);
  void gave_up(const CowBreak& given_up);
  void mark(const std::stop_token& stop);

  const Config config_;
  IoThread* thread_ = nullptr;
  CowDevice* present_ = nullptr;  // the disk's
  UniqueFd fd_;                   // of its overlay
  bool busy_ = false;
  std::function<void()> idle_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::jthread marker_;
};

}  // namespace plumb
