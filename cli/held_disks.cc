#include "cli/held_disks.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace plumb {

void HeldDisks::hold(std::chrono::milliseconds limit, std::function<void(Result<>)> held) {
  ENSURE(entries_.empty());
  held_ = std::move(held);
  first_error_ = {};
  due_ = disks_.count() + 1;  // one for ourselves: a VM may have no disks
  const uint64_t round = ++round_;
  const auto report = [this, round](Result<> result) {
    boost::asio::post(context_, [this, round, result = std::move(result)]() mutable {
      reported(round, std::move(result));
    });
  };
  for (size_t i = 0; i < disks_.count(); ++i) {
    auto entry = std::make_shared<Entry>();
    entry->id = disks_.definition_of(i).id;
    entry->disk = &disks_.at(i);
    entries_.push_back(entry);
    entry->disk->thread().post([entry, limit, report] {
      Disk& disk = *entry->disk;
      const int64_t limit_ns = std::chrono::nanoseconds(limit).count();
      disk.hold(disk.thread().turn_ns() + limit_ns, [entry, report](Result<> drained) {
        entry->state = drained ? State::kHeld : State::kOver;
        if (entry->unwanted) let_go(*entry);
        report(std::move(drained));
      });
    });
  }
  report({});
}

void HeldDisks::let_go(Entry& entry) {
  entry.unwanted = true;
  if (entry.state != State::kHeld) return;
  entry.state = State::kOver;
  entry.disk->release();
}

void HeldDisks::release() {
  for (const auto& entry : entries_) entry->disk->thread().run([&entry] { let_go(*entry); });
  entries_.clear();
  held_ = nullptr;
  ++round_;
}

void HeldDisks::forget(const std::string& disk) {
  std::erase_if(entries_, [&](const std::shared_ptr<Entry>& entry) {
    if (entry->id != disk) return false;
    entry->disk->thread().run([&entry] { let_go(*entry); });
    return true;
  });
}

void HeldDisks::reported(uint64_t round, Result<> result) {
  if (round != round_) return;
  if (!result && first_error_) first_error_ = std::move(result);
  if (--due_ > 0) return;
  const auto held = std::exchange(held_, nullptr);
  Result<> outcome = std::exchange(first_error_, {});
  if (!outcome) release();
  held(std::move(outcome));
}

}  // namespace plumb
