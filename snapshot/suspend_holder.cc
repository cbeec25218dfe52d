#include "snapshot/suspend_holder.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace plumb {

SuspendHolder::SuspendHolder(Config config)
    : config_(std::move(config)), retry_timer_(*config_.context) {
  Result<std::string> left = config_.journal->read();
  if (left && left->empty()) return;
  config_.event("the guest may have been left suspended, and is resumed");
  set_busy(true);
  start_resume();
}

SuspendHolder::~SuspendHolder() {
  alive_.reset();
  thread_.join();
}

template <typename Work, typename Then>
void SuspendHolder::on_thread(Work work, Then then) {
  boost::asio::post(thread_, [this, alive = std::weak_ptr(alive_), work = std::move(work),
                              then = std::move(then)]() mutable {
    auto result = std::make_shared<decltype(work())>(work());
    boost::asio::post(*config_.context,
                      [alive = std::move(alive), result, then = std::move(then)]() mutable {
                        if (alive.lock()) then(std::move(*result));
                      });
  });
}

void SuspendHolder::set_busy(bool busy) {
  const std::lock_guard lock(mutex_);
  busy_ = busy;
  changed_.notify_all();
}

void SuspendHolder::await_resumed(Milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit, [this] { return !busy_; });
}

void SuspendHolder::hold(Milliseconds limit, std::function<void(Result<>)> held) {
  const uint64_t round = ++round_;
  held_ = std::move(held);
  if (!config_.needed || busy_) {
    boost::asio::post(*config_.context, [this, round, alive = std::weak_ptr(alive_)] {
      if (!alive.lock() || round != round_) return;
      std::exchange(held_, nullptr)(busy_ ? failed("the guest is not resumed yet") : Result<>());
    });
    return;
  }
  set_busy(true);
  const auto start = std::chrono::steady_clock::now();
  on_thread([this] { return suspend(); },
            [this, round, limit, start](Result<Outcome> outcome) {
              on_suspended(round, std::move(outcome), limit, start);
            });
}

// On the holder's thread. First the journal: who is suspended is known to be, whoever dies.
Result<SuspendHolder::Outcome> SuspendHolder::suspend() {
  const LibvirtDomain::State state = TRY(config_.domain->state());
  if (state == LibvirtDomain::State::kPaused) return Outcome::kWasSuspended;
  if (state == LibvirtDomain::State::kOff) return failed("the domain was shut off meanwhile");
  TRY(config_.journal->write("suspended"));
  TRY(config_.domain->suspend());
  return Outcome::kSuspended;
}

void SuspendHolder::on_suspended(uint64_t round, Result<Outcome> outcome, Milliseconds limit,
                                 std::chrono::steady_clock::time_point start) {
  if (round != round_) return;  // released meanwhile; the resume is under way
  const bool late = std::chrono::steady_clock::now() - start > limit;
  Result<> held;
  if (outcome && late) {
    held = failed("the guest was not suspended within {} ms, so its disks are not held",
                  limit.count());
  } else if (!outcome) {
    held = std::move(outcome).error();
  }
  const auto reply = std::exchange(held_, nullptr);
  if (!held) release();
  reply(std::move(held));
}

void SuspendHolder::release() {
  held_ = nullptr;
  ++round_;
  if (busy_) start_resume();
}

void SuspendHolder::keep(std::vector<Overlay> /*overlays*/, std::function<void(Result<>)> done) {
  done(failed("guests of libvirt keep no snapshots"));
}

void SuspendHolder::let_go(const std::string& /*uuid*/, std::function<void(Result<>)> done) {
  done({});
}

// On the holder's thread, after a suspend() that is under way. Who was not suspended by us, as the
// journal knows, is left alone.
Result<> SuspendHolder::resume() const {
  Result<std::string> journal = config_.journal->read();
  if (journal && journal->empty()) return {};
  if (TRY(config_.domain->state()) == LibvirtDomain::State::kPaused) {
    TRY(config_.domain->resume());
  }
  return config_.journal->clear();
}

void SuspendHolder::start_resume() {
  on_thread([this] { return resume(); },
            [this](Result<> resumed) { on_resumed(std::move(resumed)); });
}

void SuspendHolder::on_resumed(Result<> resumed) {
  if (resumed) {
    if (!std::exchange(error_, "").empty()) config_.event("the guest is resumed");
    set_busy(false);
    if (config_.resumed) config_.resumed();
    return;
  }
  // Told once for each reason.
  if (std::exchange(error_, resumed.error().message) != error_) {
    config_.event("the guest may still be suspended, and is resumed as soon as that can be: " +
                  error_);
  }
  retry_timer_.expires_after(config_.retry);
  retry_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) start_resume();
  });
}

}  // namespace plumb
