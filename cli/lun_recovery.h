// LunRecovery: sees a VM through the loss of its LUNs. A LUN without a path keeps the VM paused; it
// goes on by itself when the LUN answers again, but not unless the keeper has seen that it is the
// same LUN. All of it on the control thread.
//
// What becomes of a disk whose LUN is in trouble:
//   looking   the keeper is asked each second
//   opening   the LUN has come back as another device, and its disk takes that
//   retrying  the LUN is well again: its disk sends what was left undone
//   left      the LUN is well, and yet requests fail, or what failed was its own answer (no space,
//             medium error): only retry_now() tries again
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "cli/keeper_protocol.h"
#include "cli/vm_disks.h"

namespace plumb {

class LunRecovery {
 public:
  struct Config {
    VmDisks* disks = nullptr;
    UniqueFd keeper;  // KeeperSockets::luns
    // For the VM's events; `kind` is "lun-lost", "lun-back" or "lun-changed".
    std::function<void(const std::string& kind, const std::string& disk, const std::string& what)>
        event;
    std::function<void(const std::string& disk)> grown;  // a LUN has
    std::function<void()> trouble_changed;  // trouble() has begun, ended, or reads otherwise
    std::chrono::milliseconds look_every{1000};
    // Requests of which none has ended for so long have the keeper look: a kernel that waits for a
    // path may tell nobody.
    std::chrono::milliseconds stuck_after{5000};
  };
  // Keeps all the LUNs of `config.disks`, which outlives this.
  LunRecovery(boost::asio::io_context& context, Config config);

  // A disk with a LUN has come to `disks`, or is about to leave.
  void keep(const std::string& disk);
  void forget(const std::string& disk);

  bool keeps(const std::string& disk) const { return luns_.contains(disk); }

  // A request of the disk failed, with an errno and a sentence; `stopped`: the disk keeps it, and
  // sends nothing more.
  void on_error(const std::string& disk, int error, bool stopped, const std::string& message);

  // Looks at what is in trouble at once, and tries again what was left.
  void retry_now();

  // Why the VM must stay paused; "" when nothing keeps it.
  std::string trouble() const;

 private:
  using Clock = std::chrono::steady_clock;
  enum class Phase : uint8_t { kWell, kLooking, kOpening, kRetrying, kLeft };
  struct LunDisk {
    Phase phase = Phase::kWell;
    bool stops_vm = false;
    bool path_error = false;  // what failed may have been the path; else it is the LUN's own answer
    std::string reason;
    bool asked = false;      // the keeper's answer is due
    bool doubted = false;    // there were bad news while it was opened or retried
    bool reporting = false;  // path-timeout has passed: errors reach the guest
    bool moved = false;      // it has come back as another device
    unsigned fruitless = 0;  // retries in a row
    uint64_t ended = 0;      // requests, when watch_progress() was last there
    LunFinding::State told = LunFinding::State::kWell;
    Clock::time_point since;  // when it began to stop the VM
  };

  void watch(const std::string& disk);
  void watch_progress();
  void send(const KeeperRequest& request, std::span<const int> fds = {});
  void receive();
  void keeper_ended(const std::string& why);
  void on_report(KeeperReport report);
  void on_answer(const std::string& disk, LunDisk& lun, LunFinding finding);
  void on_news(const std::string& disk, LunDisk& lun, const LunFinding& finding);
  void tell(const std::string& disk, LunDisk& lun, const LunFinding& finding);
  void stop_vm(const std::string& disk, LunDisk& lun, std::string reason);
  void ask(const std::string& disk, LunDisk& lun);
  void look(const std::string& disk, LunDisk& lun);
  void reopen(const std::string& disk, LunDisk& lun, DiskSource source);
  void reopened(const std::string& disk, const std::string& error, const std::string& device);
  void retry(const std::string& disk, LunDisk& lun);
  void retried(const std::string& disk, const std::string& error, bool stopped);
  void look_again(const std::string& disk, LunDisk& lun);
  void set_tick();
  void tick();
  void check_timeout(const std::string& disk, LunDisk& lun);

  boost::asio::io_context& context_;
  VmDisks& disks_;
  Config config_;
  boost::asio::posix::stream_descriptor keeper_;
  boost::asio::steady_timer timer_;
  boost::asio::steady_timer progress_timer_;
  bool ticking_ = false;
  std::map<std::string, LunDisk> luns_;
};

}  // namespace plumb
