#include "cli/held_disks.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <mutex>
#include <optional>
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
    entry->keeper = &disks_.keeper_of(i);
    entries_.push_back(entry);
    entry->disk->thread().post([entry, limit, report] {
      Disk& disk = *entry->disk;
      const int64_t limit_ns = std::chrono::nanoseconds(limit).count();
      disk.hold(disk.thread().turn_ns() + limit_ns, [entry, report](Result<> drained) {
        entry->state = drained ? State::kHeld : State::kOver;
        if (entry->unwanted) end(*entry);
        report(std::move(drained));
      });
    });
  }
  report({});
}

void HeldDisks::end(Entry& entry) {
  entry.unwanted = true;
  if (entry.state != State::kHeld || entry.keeper->busy()) return;
  entry.state = State::kOver;
  entry.disk->release();
}

void HeldDisks::release() {
  for (const auto& entry : entries_) entry->disk->thread().run([&entry] { end(*entry); });
  entries_.clear();
  held_ = nullptr;
  ++round_;
}

struct HeldDisks::Change {
  Change(boost::asio::io_context& for_context, std::function<void(Result<>)> then)
      : context(for_context), done(std::move(then)) {}

  boost::asio::io_context& context;
  std::function<void(Result<>)> done;
  std::mutex mutex;
  size_t due = 0;  // guarded by mutex, as the next
  Result<> first_error;

  // Any thread.
  void report(Result<> result) {
    const std::lock_guard lock(mutex);
    if (!result && first_error) first_error = std::move(result);
    if (--due > 0) return;
    boost::asio::post(context, [done = std::move(done), result = std::move(first_error)]() mutable {
      done(std::move(result));
    });
  }
};

// The hold may have been given up meanwhile.
void HeldDisks::changed(const std::shared_ptr<Entry>& entry, const std::shared_ptr<Change>& change,
                        Result<> result) {
  change->report(std::move(result));
  if (entry->unwanted) end(*entry);
}

std::shared_ptr<HeldDisks::Entry> HeldDisks::entry_of(const std::string& disk) const {
  const auto found =
      std::ranges::find_if(entries_, [&](const auto& entry) { return entry->id == disk; });
  return found == entries_.end() ? nullptr : *found;
}

void HeldDisks::keep(std::vector<Overlay> overlays, std::function<void(Result<>)> done) {
  const auto change = std::make_shared<Change>(context_, std::move(done));
  change->due = 1;  // this one's own
  std::vector<std::pair<std::shared_ptr<Entry>, CowKeeper::OpenOverlay>> all;
  for (Overlay& overlay : overlays) {
    std::shared_ptr<Entry> entry = entry_of(overlay.disk);
    const std::optional<size_t> index = disks_.index_of(overlay.disk);
    if (entry == nullptr || !index) {
      return change->report(failed("the VM has no disk '{}'", overlay.disk));
    }
    Result<CowKeeper::OpenOverlay> made =
        disks_.examine_overlay(*index, std::move(overlay.fd), overlay.label);
    if (!made) return change->report(std::move(made).error());
    all.emplace_back(std::move(entry), std::move(made).value());
  }
  change->due += all.size();
  for (auto& [entry, overlay] : all) {
    Disk& disk = *entry->disk;
    disk.thread().post([entry = entry, overlay = std::move(overlay), change]() mutable {
      if (entry->state != State::kHeld) return change->report(failed("it is held no longer"));
      entry->keeper->keep(*entry->disk, std::move(overlay), [entry, change](Result<> kept) {
        changed(entry, change, std::move(kept));
      });
    });
  }
  change->report({});
}

void HeldDisks::let_go(const std::string& uuid, std::function<void(Result<>)> done) {
  const auto change = std::make_shared<Change>(context_, std::move(done));
  change->due = 1 + entries_.size();
  for (const auto& entry : entries_) {
    entry->disk->thread().post([entry, uuid, change] {
      if (entry->state != State::kHeld) return change->report(failed("it is held no longer"));
      entry->keeper->let_go(*entry->disk, uuid, [entry, change](Result<> gone) {
        changed(entry, change, std::move(gone));
      });
    });
  }
  change->report({});
}

void HeldDisks::forget(const std::string& disk) {
  std::erase_if(entries_, [&](const std::shared_ptr<Entry>& entry) {
    if (entry->id != disk) return false;
    entry->disk->thread().run([&entry] { end(*entry); });
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
