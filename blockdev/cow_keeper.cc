#include "blockdev/cow_keeper.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "blockdev/cow_file.h"
#include "blockdev/file_device.h"

namespace plumb {
namespace {

constexpr std::chrono::seconds kMarkEvery{5};

Result<UniqueFd> same_file(int fd, const std::string& label) {
  UniqueFd other(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!other) return os_error(errno, "{} cannot be used twice", label);
  return other;
}

}  // namespace

CowKeeper::CowKeeper(Config config) : config_(std::move(config)) {}

CowKeeper::~CowKeeper() = default;

CowDevice::Config CowKeeper::device_config() {
  return {.broken = [this](const CowBreak& given_up) { gave_up(given_up); },
          .unreadable_breaks = config_.unreadable_breaks};
}

Result<CowKeeper::OpenOverlay> CowKeeper::load(UniqueFd overlay, const std::string& label,
                                               IoThread& thread) const {
  OpenOverlay open;
  open.fd = TRY(same_file(overlay.get(), label));
  const auto file = TRY(CowFdFile::open(TRY(same_file(overlay.get(), label)), label));
  open.content = TRY(load_cow_overlay(*file));
  if (open.content.header.disk != config_.disk) {
    return failed("{} is of {}, not of {}", label, open.content.header.disk, config_.disk);
  }
  if (open.content.state.condition != CowCondition::kOpen) return failed("{} is not open", label);
  open.device = TRY(FileDevice::open({.fd = std::move(overlay), .label = label}, thread));
  return open;
}

Result<std::unique_ptr<BlockDevice>> CowKeeper::start(std::unique_ptr<BlockDevice> below,
                                                      UniqueFd overlay, IoThread& thread) {
  thread_ = &thread;
  if (!overlay) return below;
  OpenOverlay open = TRY(load(std::move(overlay), "the overlay of " + config_.disk, thread));
  fd_ = std::move(open.fd);
  auto device = std::make_unique<CowDevice>(
      CowDevice::Parts{.below = std::move(below), .overlay = std::move(open.device)},
      std::move(open.content), device_config(), thread);
  present_ = device.get();
  return std::unique_ptr<BlockDevice>(std::move(device));
}

Result<CowKeeper::OpenOverlay> CowKeeper::examine(UniqueFd overlay, const std::string& label,
                                                  uint64_t disk_bytes, IoThread& thread) const {
  OpenOverlay made = TRY(load(std::move(overlay), "overlay " + label, thread));
  if (made.content.header.base_bytes != disk_bytes) {
    return failed("overlay {} is of a disk of {} bytes, and {} has {}", label,
                  made.content.header.base_bytes, config_.disk, disk_bytes);
  }
  if (made.content.table.kept() != 0) return failed("overlay {} is not a new one", label);
  return made;
}

void CowKeeper::keep(Disk& disk, OpenOverlay overlay, Done done) {
  ENSURE(!busy_);
  busy_ = true;
  CowBegin begin;
  begin.overlay = std::move(overlay.device);
  begin.content = std::move(overlay.content);
  begin.config = device_config();
  begin.present = present_;
  begin_cow(
      disk, std::move(begin),
      [this, fd = std::move(overlay.fd), done = std::move(done)](Result<CowBegun> begun) mutable {
        if (!begun.ok()) return ended(std::move(begun).error(), done);
        present_ = begun->device;
        fd_ = std::move(fd);
        ended({}, done);
      });
}

void CowKeeper::let_go(Disk& disk, const std::string& uuid, Done done) {
  if (uuid != this->uuid()) return done({});
  finish(disk, {.condition = CowCondition::kBroken, .reason = "the snapshot was deleted"},
         std::move(done));
}

void CowKeeper::end(Disk& disk, const CowBaseStamp& base, Done done) {
  if (present_ == nullptr) return done({});
  finish(disk, {.condition = CowCondition::kClean, .base = base}, std::move(done));
}

void CowKeeper::finish(Disk& disk, CowState last, Done done) {
  ENSURE(!busy_);
  busy_ = true;
  end_cow(disk, *present_, std::move(last),
          [this, done = std::move(done)](Result<std::unique_ptr<BlockDevice>> overlay) mutable {
            if (!overlay.ok()) return ended(std::move(overlay).error(), done);
            present_ = nullptr;
            overlay->reset();
            fd_.reset();
            ended({}, done);
          });
}

void CowKeeper::ended(Result<> result, Done& done) {
  busy_ = false;
  done(std::move(result));
  if (!busy_ && idle_) std::exchange(idle_, nullptr)();
}

void CowKeeper::when_idle(std::function<void()> idle) {
  if (!busy_) return idle();
  idle_ = std::move(idle);
}

void CowKeeper::gave_up(const CowBreak& given_up) {
  if (config_.broken) {
    config_.broken(
        fmt::format("the snapshots of {} are given up: {}", config_.disk, given_up.reason));
  }
  if (!given_up.marked) marker_ = std::jthread([this](const std::stop_token& stop) { mark(stop); });
}

// An overlay that is empty is none, whatever it was. Until that is durable the guest's writes wait:
// after a crash of the host a snapshot that is not whole would be taken for one that is.
void CowKeeper::mark(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any later;
  bool told = false;
  while (::ftruncate(fd_.get(), 0) != 0 || ::fsync(fd_.get()) != 0) {
    const int error = errno;
    if (!std::exchange(told, true)) {
      const Error why = os_error(error,
                                 "the overlay of {} cannot be written, not even to say that it is "
                                 "given up; writes wait until it can",
                                 config_.disk);
      log::error("{}", why.message);
      if (config_.broken) config_.broken(why.message);
    }
    std::unique_lock lock(mutex);
    later.wait_for(lock, stop, kMarkEvery, [] { return false; });
    if (stop.stop_requested()) return;
  }
  static_cast<void>(disown_cow_overlay(fd_.get(), config_.disk));
  thread_->post([alive = std::weak_ptr(alive_), device = present_] {
    if (alive.lock()) device->go_on();
  });
}

}  // namespace plumb
