// SuspendHolder: holds the disks of a guest of libvirt by suspending it: QEMU then has no request
// at any medium, and makes none. With one disk nothing is done: its copy is of one instant anyway.
//
// That the guest may be suspended is in a journal before it is. A guest that does not resume is
// told to again every `retry`. One that somebody else has suspended is left so.
//
// For one thread, that of the context, but for await_resumed(); libvirt is called on another, of
// its own.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "snapshot/disk_holder.h"
#include "snapshot/freeze_journal.h"
#include "snapshot/libvirt_domain.h"

namespace plumb {

class SuspendHolder final : public DiskHolder {
 public:
  using Milliseconds = std::chrono::milliseconds;
  static constexpr Milliseconds kRetry{1000};

  struct Config {
    boost::asio::io_context* context = nullptr;  // outlives this, as the next two
    LibvirtDomain* domain = nullptr;
    FreezeJournal* journal = nullptr;
    bool needed = true;  // the guest has several disks
    std::function<void(const std::string& sentence)> event;
    std::function<void()> resumed;  // nothing is left to do; on the context's thread
    Milliseconds retry = kRetry;
  };
  // A guest that the journal says is suspended is resumed.
  explicit SuspendHolder(Config config);
  ~SuspendHolder() override;
  SuspendHolder(const SuspendHolder&) = delete;
  SuspendHolder& operator=(const SuspendHolder&) = delete;

  void hold(Milliseconds limit, std::function<void(Result<>)> held) override;
  void release() override;
  // QEMU keeps nothing for us: always an error.
  void keep(std::vector<Overlay> overlays, std::function<void(Result<>)> done) override;
  void let_go(const std::string& uuid, std::function<void(Result<>)> done) override;

  // Whether the guest is, or may be, suspended by this.
  bool busy() const { return busy_; }
  // Blocks until it is not, for `limit` at most. Any thread but the context's.
  void await_resumed(Milliseconds limit);

 private:
  enum class Outcome : uint8_t { kSuspended, kWasSuspended };

  Result<Outcome> suspend();
  Result<> resume() const;
  void on_suspended(uint64_t round, Result<Outcome> outcome, Milliseconds limit,
                    std::chrono::steady_clock::time_point start);
  void start_resume();
  void on_resumed(Result<> resumed);
  void set_busy(bool busy);
  template <typename Work, typename Then>
  void on_thread(Work work, Then then);

  const Config config_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::function<void(Result<>)> held_;  // while it is due
  uint64_t round_ = 0;                  // tells this hold's outcome from that of one given up
  std::string error_;                   // of the last attempt to resume
  boost::asio::steady_timer retry_timer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> busy_ = false;  // written with the mutex
  boost::asio::thread_pool thread_{1};
};

}  // namespace plumb
