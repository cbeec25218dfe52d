#include "cli/lun_recovery.h"

#include <boost/asio/post.hpp>
#include <cerrno>
#include <utility>

#include "base/message_socket.h"
#include "cli/source_message.h"

namespace plumb {
namespace {

using State = LunFinding::State;

constexpr unsigned kMaxFruitless = 3;

// What the block layer says when it is the way to the LUN that failed, or may be: EIO has many
// reasons. Not a medium error (ENODATA), a full thin pool (ENOSPC), a target's refusal (EREMOTEIO):
// those wait for somebody who does something about them, unless the LUN is seen to be in trouble.
bool may_be_the_path(int error) {
  return error == EIO || error == ENODEV || error == ENXIO || error == ENOLINK ||
         error == ETIMEDOUT || error == EAGAIN;
}

uint64_t ended_requests(const DiskStats& stats) {
  uint64_t ended = 0;
  for (const DiskOpStats& op : stats.ops) ended += op.requests;
  return ended;
}

}  // namespace

LunRecovery::LunRecovery(boost::asio::io_context& context, Config config)
    : context_(context),
      disks_(*config.disks),
      config_(std::move(config)),
      keeper_(context, config_.keeper.release()),
      timer_(context),
      progress_timer_(context) {
  for (size_t i = 0; i < disks_.count(); ++i) {
    if (!disks_.wwn_of(i).empty()) keep(disks_.definition_of(i).id);
  }
  receive();
}

void LunRecovery::keep(const std::string& disk) {
  luns_[disk];
  watch(disk);
  watch_progress();
}

void LunRecovery::forget(const std::string& disk) {
  if (luns_.erase(disk) == 0) return;
  send({.action = KeeperRequest::Action::kUnwatch, .disk = disk});
  config_.trouble_changed();
}

void LunRecovery::watch(const std::string& disk) {
  const VmDisks::LunView lun = disks_.lun_of(disk);
  const int fd = disks_.fd_of(disk);
  send({.action = KeeperRequest::Action::kWatch,
        .disk = disk,
        .wwn = lun.wwn,
        .read_only = lun.claim.read_only,
        .allow_weak_identity = lun.claim.allow_weak_identity,
        .shared = lun.claim.shared,
        .discard = lun.discard},
       {&fd, 1});
}

void LunRecovery::watch_progress() {
  progress_timer_.expires_after(config_.stuck_after);
  progress_timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || luns_.empty()) return;
    for (auto& [disk, lun] : luns_) {
      const DiskStats& stats = disks_.stats_of(disk);
      const uint64_t before = std::exchange(lun.ended, ended_requests(stats));
      if (lun.phase != Phase::kWell || stats.in_flight == 0 || lun.ended != before) continue;
      ask(disk, lun);
    }
    watch_progress();
  });
}

void LunRecovery::send(const KeeperRequest& request, std::span<const int> fds) {
  if (!keeper_.is_open()) return;
  Result<> sent = send_message(keeper_.native_handle(), encode_keeper_request(request), fds);
  if (!sent) keeper_ended(sent.error().message);
}

void LunRecovery::keeper_ended(const std::string& why) {
  if (!keeper_.is_open()) return;
  keeper_.close();
  config_.event("lun-lost", "",
                "the keeper of LUNs has ended: a LUN that loses its paths now stays lost until the "
                "VM is started again (" +
                    why + ")");
}

void LunRecovery::receive() {
  if (!keeper_.is_open()) return;
  keeper_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                     [this](const boost::system::error_code& error) {
                       if (error) return;
                       Result<ReceivedMessage> message = receive_message(
                           keeper_.native_handle(), kKeeperMessageLimit, kSourceFds);
                       if (!message) return keeper_ended(message.error().message);
                       if (message->bytes.empty())
                         return keeper_ended("its end of the socket is closed");
                       Result<KeeperReport> report =
                           decode_keeper_report(message->bytes, std::move(message->fds));
                       if (!report) return keeper_ended(report.error().message);
                       on_report(std::move(report).value());
                       receive();
                     });
}

void LunRecovery::on_report(KeeperReport report) {
  const auto at = luns_.find(report.disk);
  if (at == luns_.end()) return;
  LunDisk& lun = at->second;
  switch (report.about) {
    case KeeperReport::About::kLook:
      lun.asked = false;
      if (lun.phase == Phase::kWell) return on_news(at->first, lun, report.finding);
      if (lun.phase == Phase::kLooking) on_answer(at->first, lun, std::move(report.finding));
      return;
    case KeeperReport::About::kNews:
      return on_news(at->first, lun, report.finding);
    case KeeperReport::About::kRefusal:
      return config_.event(
          "lun-lost", at->first,
          "the keeper does not take the LUN of disk " + at->first + ": " + report.finding.reason);
  }
}

void LunRecovery::on_answer(const std::string& disk, LunDisk& lun, LunFinding finding) {
  switch (finding.state) {
    case State::kWell:
      if (lun.stops_vm && !lun.path_error) {
        lun.phase = Phase::kLeft;
        lun.reason += ": it is well, and `plumb resume` tries again";
        return config_.trouble_changed();
      }
      return retry(disk, lun);
    case State::kNew:
      return reopen(disk, lun, std::move(*finding.source));
    case State::kOther:
      tell(disk, lun, finding);
      lun.path_error = true;
      return stop_vm(disk, lun, std::move(finding.reason));
    case State::kSilent:
    case State::kLost:
      tell(disk, lun, finding);
      lun.path_error = true;
      // The VM hears why it still waits.
      if (lun.stops_vm) stop_vm(disk, lun, std::move(finding.reason));
      return;
  }
}

// The kernel has told the keeper of a change; or the disk was well, and its requests did not end.
void LunRecovery::on_news(const std::string& disk, LunDisk& lun, const LunFinding& finding) {
  if (finding.state == State::kWell || finding.state == State::kNew) {
    if (finding.grown) config_.grown(disk);
    if (lun.phase == Phase::kLooking) look(disk, lun);
    return;
  }
  tell(disk, lun, finding);
  const bool waits = disks_.lun_of(disk).pauses && !lun.reporting;
  const bool must_stop = finding.state == State::kOther || (finding.state == State::kLost && waits);
  if (lun.phase == Phase::kOpening || lun.phase == Phase::kRetrying) {
    // Their end looks again; until then what has not been sent must not be.
    lun.doubted = true;
    const bool sends = lun.phase == Phase::kRetrying || !lun.stops_vm;
    if (must_stop && sends) disks_.stop(disk);
    return;
  }
  if (must_stop) stop_vm(disk, lun, finding.reason);
  if (finding.state == State::kSilent) return;
  lun.path_error = true;
  lun.phase = Phase::kLooking;
  set_tick();
}

void LunRecovery::tell(const std::string& disk, LunDisk& lun, const LunFinding& finding) {
  if (std::exchange(lun.told, finding.state) == finding.state) return;
  const bool other = finding.state == State::kOther;
  config_.event(other ? "lun-changed" : "lun-lost", disk,
                fmt::format("disk {} ({}): {}", disk, disks_.lun_of(disk).wwn, finding.reason));
}

// From here on nothing of the disk reaches a LUN, whatever its policy.
void LunRecovery::stop_vm(const std::string& disk, LunDisk& lun, std::string reason) {
  lun.reason = fmt::format("disk {} ({}): {}", disk, disks_.lun_of(disk).wwn, reason);
  if (!std::exchange(lun.stops_vm, true)) {
    disks_.stop(disk);
    lun.since = Clock::now();
  }
  config_.trouble_changed();
}

void LunRecovery::on_error(const std::string& disk, int error, bool stopped,
                           const std::string& message) {
  const auto at = luns_.find(disk);
  if (at == luns_.end()) return;
  LunDisk& lun = at->second;
  // Their end hears of it.
  if (lun.phase == Phase::kOpening || lun.phase == Phase::kRetrying) return;
  const bool path_error = may_be_the_path(error);
  if (!stopped && (!path_error || lun.phase != Phase::kWell)) return;
  if (stopped) {
    if (!std::exchange(lun.stops_vm, true)) lun.since = Clock::now();
    lun.reason = message;
  }
  lun.path_error = lun.path_error || path_error;
  lun.phase = Phase::kLooking;
  if (stopped) config_.trouble_changed();
  look(disk, lun);
}

void LunRecovery::look(const std::string& disk, LunDisk& lun) {
  set_tick();
  ask(disk, lun);
}

void LunRecovery::ask(const std::string& disk, LunDisk& lun) {
  if (std::exchange(lun.asked, true)) return;
  send({.action = KeeperRequest::Action::kLook, .disk = disk});
}

// The call-backs keep the context, too, as it outlives us: at the end of the VM we may be gone when
// they are called.
void LunRecovery::reopen(const std::string& disk, LunDisk& lun, DiskSource source) {
  lun.phase = Phase::kOpening;
  const std::string device = source.device;
  disks_.reopen(disk, std::move(source), [this, &context = context_, disk, device](Result<> done) {
    std::string error = done ? "" : done.error().message;
    boost::asio::post(
        context, [this, disk, error = std::move(error), device] { reopened(disk, error, device); });
  });
}

void LunRecovery::reopened(const std::string& disk, const std::string& error,
                           const std::string& device) {
  const auto at = luns_.find(disk);
  if (at == luns_.end()) return;
  LunDisk& lun = at->second;
  if (!error.empty()) {
    lun.doubted = false;
    lun.phase = Phase::kLooking;
    stop_vm(disk, lun, error);
    return set_tick();
  }
  disks_.set_device(disk, device);
  lun.moved = true;
  watch(disk);
  if (lun.doubted) return look_again(disk, lun);
  retry(disk, lun);
}

void LunRecovery::retry(const std::string& disk, LunDisk& lun) {
  lun.phase = Phase::kRetrying;
  disks_.retry(disk, [this, &context = context_, disk](Result<> done, bool stopped) {
    std::string error = done ? "" : done.error().message;
    boost::asio::post(context, [this, disk, error = std::move(error), stopped] {
      retried(disk, error, stopped);
    });
  });
}

void LunRecovery::look_again(const std::string& disk, LunDisk& lun) {
  lun.doubted = false;
  lun.phase = Phase::kLooking;
  look(disk, lun);
}

void LunRecovery::retried(const std::string& disk, const std::string& error, bool stopped) {
  const auto at = luns_.find(disk);
  if (at == luns_.end()) return;
  LunDisk& lun = at->second;
  if (lun.doubted) return look_again(disk, lun);
  if (!error.empty() || stopped) {
    const bool leave = error.empty() && ++lun.fruitless == kMaxFruitless;
    lun.phase = leave ? Phase::kLeft : Phase::kLooking;
    std::string reason = error;
    if (reason.empty()) reason = "the LUN answers, but a request failed again";
    if (leave) reason += "; `plumb resume` tries once more";
    stop_vm(disk, lun, std::move(reason));
    return set_tick();
  }
  const bool told = std::exchange(lun.told, State::kWell) != State::kWell;
  const bool stopped_vm = lun.stops_vm;
  const bool moved = lun.moved;
  if (lun.reporting) disks_.set_pauses(disk, true);
  lun = LunDisk();
  if (told || stopped_vm || moved) {
    const VmDisks::LunView view = disks_.lun_of(disk);
    config_.event("lun-back", disk,
                  fmt::format("disk {} ({}) is there again, as {}", disk, view.wwn, view.device));
  }
  if (stopped_vm) config_.trouble_changed();
}

void LunRecovery::retry_now() {
  for (auto& [disk, lun] : luns_) {
    if (lun.phase == Phase::kLeft) {
      lun.phase = Phase::kLooking;
      lun.path_error = true;
      lun.fruitless = 0;
    }
    if (lun.phase == Phase::kLooking) look(disk, lun);
  }
}

std::string LunRecovery::trouble() const {
  for (const auto& [disk, lun] : luns_) {
    if (lun.stops_vm) return lun.reason;
  }
  return "";
}

void LunRecovery::set_tick() {
  if (std::exchange(ticking_, true)) return;
  timer_.expires_after(config_.look_every);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) tick();
  });
}

void LunRecovery::tick() {
  ticking_ = false;
  for (auto& [disk, lun] : luns_) {
    if (lun.phase != Phase::kLooking) continue;
    check_timeout(disk, lun);
    look(disk, lun);
  }
}

// A guest that is to have errors rather than to wait for ever; but no LUN that is another one.
void LunRecovery::check_timeout(const std::string& disk, LunDisk& lun) {
  const VmDisks::LunView view = disks_.lun_of(disk);
  const std::chrono::seconds timeout(view.path_timeout_s);
  if (timeout.count() == 0 || !lun.stops_vm || lun.told == State::kOther) return;
  if (Clock::now() - lun.since < timeout) return;
  lun.stops_vm = false;
  lun.reporting = true;
  disks_.set_pauses(disk, false);
  config_.event("lun-lost", disk,
                fmt::format("disk {} ({}) has had no path for {} s: its errors reach the guest now",
                            disk, view.wwn, timeout.count()));
  config_.trouble_changed();
}

}  // namespace plumb
