// HeldDisks: holds all disks of the VM at once, for whoever copies them.
//
// For the control thread; what is a disk's own happens on its I/O thread. A hold that is given up
// before a disk is quiet ends for that disk when it is, or at the limit.
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
  };
  static void let_go(Entry& entry);
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
