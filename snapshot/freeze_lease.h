// FreezeLease: freezes a guest and holds its disks for someone else, and sees to it that both end:
// when that one asks, when his connection ends, or when the time is over, whoever died.
//
// Lives in the VM's process (of a guest of libvirt: in a process of its own), behind a JsonServer.
// The owner is a connection; another has to wait until the lease is over. Requests, as "do":
//
//   begin    {"owner": TEXT}            → what the VM is (Config::describe)
//   guest    {"timeout_ms"}             → {"agent", "os", "file_systems", "hooks"}
//   freeze   {"mountpoints", "timeout_ms", "limit_ms"} → {"frozen": N, "freeze_ms"}
//   hold     {"limit_ms"}               → {}
//   keep     {"overlays": [{"disk", "label"}]}, and a descriptor for each → {}; while held
//   let-go   {"uuid"}                   → {}; while held
//   release  {}                         → {"held_us"}
//   thaw     {"timeout_ms"}             → {"thawed": N, "frozen_ms", "complaint", "hooks"}
//
// The limits count from the answer; when one passes, disks are released and the guest is thawed,
// and what the owner asks next is an error that says so. The end of the connection ends the lease.
// A guest that does not thaw is told to again every kRetry, for as long as this process lives, and
// status() tells of it.
//
// For one thread, that of the context; the freezer is called on another, of the lease's own.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json_socket.h"
#include "base/result.h"
#include "snapshot/disk_holder.h"
#include "snapshot/freeze_journal.h"
#include "snapshot/guest_freezer.h"

namespace plumb {

class FreezeLease {
 public:
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::milliseconds;

  struct Config {
    boost::asio::io_context* context = nullptr;  // outlives this, as do the next three
    GuestFreezer* freezer = nullptr;
    DiskHolder* disks = nullptr;
    FreezeJournal* journal = nullptr;
    std::function<nlohmann::json()> describe;
    std::function<void(const std::string& sentence)> event;
    Milliseconds retry = kRetry;
  };
  static constexpr Milliseconds kRetry{5000};
  static constexpr Milliseconds kThawTimeout{60'000};  // of one attempt
  static constexpr Milliseconds kMaxLimit{600'000};
  static constexpr size_t kMaxFds = 64;  // beside a request

  // A guest that the journal says is frozen is thawed as soon as it answers.
  explicit FreezeLease(Config config);
  // The freezer's calls must have been made to end. The guest is not thawed any more.
  ~FreezeLease();
  FreezeLease(const FreezeLease&) = delete;
  FreezeLease& operator=(const FreezeLease&) = delete;

  // For JsonServer::Config.
  void request(JsonServer::Id id, const nlohmann::json& request, std::vector<UniqueFd> fds,
               JsonServer::Reply reply);
  void closed(JsonServer::Id id);

  // null when there is no lease and the guest is not frozen; else {"state": "open" | "freezing" |
  // "frozen" | "thawing", "held", "owner", "seconds", "error"}.
  nlohmann::json status() const;

 private:
  enum class State : uint8_t {
    kIdle,
    kOpen,      // someone has begun
    kAsking,    // the freezer is asked for facts
    kFreezing,  // the freezer is asked to freeze
    kFrozen,
    kThawing,  // until the guest is thawed
  };

  void begin(const nlohmann::json& request, const JsonServer::Reply& reply);
  void ask_guest(Milliseconds timeout, JsonServer::Reply reply);
  void freeze(std::vector<std::string> mountpoints, Milliseconds timeout, Milliseconds limit,
              JsonServer::Reply reply);
  void on_frozen(Result<unsigned> frozen, Milliseconds limit, const JsonServer::Reply& reply);
  void hold(Milliseconds limit, JsonServer::Reply reply);
  void change_overlays(const std::string& what, const nlohmann::json& request,
                       std::vector<UniqueFd> fds, JsonServer::Reply reply);
  void release(const JsonServer::Reply& reply);
  void thaw(Milliseconds timeout, JsonServer::Reply reply);
  void start_thaw();
  void on_thawed(Result<Thawed> thawed, const std::optional<HookReport>& hooks);
  void finish_thaw(const nlohmann::json& result);
  void end();
  void let_disks_go();
  void set_limit(Milliseconds limit, const char* what);
  void limit_passed(const char* what);
  Error not_now(const char* what) const;
  // Runs `work` on the freezer's thread, then `then` with its result on this one.
  template <typename Work, typename Then>
  void on_freezer(Work work, Then then);
  bool owned() const { return owner_id_ != 0; }

  const Config config_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  State state_ = State::kIdle;
  JsonServer::Id owner_id_ = 0;  // 0: he is gone
  std::string owner_;
  bool held_ = false;
  Clock::time_point held_at_;
  Clock::time_point state_at_;   // when state_ was entered
  Clock::time_point frozen_at_;  // when the freezer said so
  std::string ended_;            // why the lease ended before its owner ended it
  std::string thaw_error_;       // of the last attempt
  nlohmann::json thaw_result_;
  JsonServer::Reply thaw_reply_;
  boost::asio::steady_timer limit_timer_;
  boost::asio::steady_timer thaw_timer_;  // how long the owner waits
  boost::asio::steady_timer retry_timer_;
  std::unique_ptr<boost::asio::thread_pool> thread_;  // made when the freezer is first called
};

}  // namespace plumb
