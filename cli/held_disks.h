// HeldDisks: holds all disks of the VM at once, for whoever copies them.
//
// For the control thread; what is a disk's own happens on its I/O thread. A hold that is given up
// before a disk is quiet ends for that disk when it is, or at the limit; while the disk is being
// given an overlay, or loses it, it ends after that.
#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cli/vm_disks.h"
#include "snapshot/disk_holder.h"

namespace plumb {

class HeldDisks final : public DiskHolder {
 public:
  // Both outlive this.
  HeldDisks(boost::asio::io_context& context, VmDisks& disks) : context_(context), disks_(disks) {}

  void hold(std::chrono::milliseconds limit, std::function<void(Result<>)> held) override;
  void release() override;
  void keep(std::vector<Overlay> overlays, std::function<void(Result<>)> done) override;
  void let_go(const std::string& uuid, std::function<void(Result<>)> done) override;
  // The disk is about to leave the VM: its hold ends.
  void forget(const std::string& disk);

 private:
  enum class State : uint8_t { kWaiting, kHeld, kOver };
  struct Entry {
    std::string id;
    Disk* disk = nullptr;
    // On the disk's thread only.
    State state = State::kWaiting;
    bool unwanted = false;
    CowKeeper* keeper = nullptr;
  };
  // What is done to each of some disks, on their threads; `done` is called after the last, here.
  struct Change;
  static void end(Entry& entry);
  std::shared_ptr<Entry> entry_of(const std::string& disk) const;
  static void changed(const std::shared_ptr<Entry>& entry, const std::shared_ptr<Change>& change,
                      Result<> result);
  void reported(uint64_t round, Result<> result);

  boost::asio::io_context& context_;
  VmDisks& disks_;
  std::vector<std::shared_ptr<Entry>> entries_;
  std::function<void(Result<>)> held_;  // while it is due
  uint64_t round_ = 0;                  // tells this hold's reports from those of one given up
  size_t due_ = 0;                      // reports
  Result<> first_error_;
};

}  // namespace plumb
