#include "cli/guest_disks.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/lun_access.h"
#include "vmm/virtio/blk.h"

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookEvery{100};
// A target to which no command has come for so long since the guest was told is not in use: a
// driver that takes a disk down writes back at once what it has.
constexpr std::chrono::milliseconds kQuiet{1000};

}  // namespace

GuestDisks::GuestDisks(Config config) : config_(std::move(config)) {}
GuestDisks::~GuestDisks() = default;

Result<> GuestDisks::add_to(Vm& vm) {
  vm_ = &vm;
  VmDisks& disks = *config_.disks;
  for (const char* bus : {"virtio-blk", "scsi"}) {
    for (size_t i = 0; i < disks.count(); ++i) {
      if (disks.definition_of(i).bus == bus) TRY(seat(i, false));
    }
  }
  return {};
}

void GuestDisks::guest_ended() {
  vm_ = nullptr;
  host_ = nullptr;
  std::vector<std::unique_ptr<Seat>> seats = std::exchange(seats_, {});
  for (std::unique_ptr<Seat>& seat : seats) {
    seat->lun.reset();
    if (seat->state == State::kInGuest) {
      seats_.push_back(std::move(seat));
      continue;
    }
    config_.leaves(seat->id);
    config_.disks->remove(index_of(*seat));
    config_.events->add("disk-detached", seat->id,
                        fmt::format("disk {} is detached: the guest ended", seat->id));
  }
}

// Puts the disk into the guest: where it was before, if it had a seat.
Result<> GuestDisks::seat(size_t index, bool running) {
  const DiskDefinition& disk = config_.disks->definition_of(index);
  Seat* known = find(disk.id);
  auto made = known == nullptr ? std::make_unique<Seat>() : nullptr;
  Seat& seat = known == nullptr ? *made : *known;
  seat.id = disk.id;
  if (disk.bus == "scsi") {
    TRY(seat_on_scsi(seat, index, running));
  } else {
    auto device = std::make_unique<VirtioBlk>(config_.disks->at(index), config_.queues);
    seat.slot = running ? TRY(vm_->plug(std::move(device)))
                        : TRY(vm_->add_virtio(std::move(device), true, seat.slot));
  }
  if (made) {
    seat.number = ++last_number_;
    seats_.push_back(std::move(made));
  }
  return {};
}

// The host comes with the first disk, and stays.
Result<> GuestDisks::seat_on_scsi(Seat& seat, size_t index, bool running) {
  if (host_ == nullptr) {
    auto host = std::make_unique<VirtioScsi>(*config_.disks->scsi_thread(), config_.queues);
    VirtioScsi* made = host.get();
    host_slot_ = running ? TRY(vm_->plug(std::move(host), false))
                         : TRY(vm_->add_virtio(std::move(host), false, host_slot_));
    host_ = made;
  }
  if (!seat.target) {
    unsigned target = 0;
    const auto taken = [&](const auto& other) { return other->target == target; };
    while (std::ranges::any_of(seats_, taken)) ++target;
    if (target >= VirtioScsi::kTargets) {
      return usage_error("the VM has {} SCSI disks already, and no more can be attached", target);
    }
    seat.target = static_cast<uint8_t>(target);
  }
  seat.lun = config_.disks->make_scsi_unit(index);
  host_->add_target(*seat.target, *seat.lun);
  return {};
}

Result<nlohmann::json> GuestDisks::attach(const DiskDefinition& disk, DiskSource source) {
  if (vm_ == nullptr) return failed("the guest has ended");
  const std::string label = source.label;
  const std::string missing = missing_commands(source);
  VmDisks& disks = *config_.disks;
  TRY(disks.attach(disk, std::move(source), *config_.spare));
  if (Result<> seated = seat(disks.count() - 1, true); !seated) {
    disks.remove(disks.count() - 1);
    return std::move(seated).error();
  }
  config_.came(disk.id);
  const Seat& made = *find(disk.id);
  nlohmann::json answer{{"disk", disk.id}};
  if (!missing.empty()) answer["weaker"] = missing;
  std::string place;
  if (made.slot) {
    answer["slot"] = *made.slot;
    place = fmt::format("in PCI slot {}", *made.slot);
  } else {
    answer["target"] = *made.target;
    place = fmt::format("as SCSI target {}", *made.target);
  }
  config_.events->add("disk-attached", disk.id,
                      fmt::format("disk {} ({}) is attached {}", disk.id, label, place));
  return answer;
}

Result<> GuestDisks::detach(const std::string& id, std::chrono::seconds timeout, bool force) {
  Seat* seat = find(id);
  if (seat == nullptr) {
    return make_error(ErrorKind::kNotFound, "this VM has no disk '{}'", id);
  }
  if (vm_ == nullptr || seat->state == State::kLeaving || seat->state == State::kGone) return {};
  if (vm_->paused() && !force) {
    return failed(
        "the VM is paused, so its guest cannot let go of disk {}; resume it, or detach with "
        "--force",
        id);
  }
  seat->state = State::kAsked;
  seat->force = force;
  seat->refusal.clear();
  seat->deadline = Clock::now() + timeout;
  seat->quiet_since = Clock::now();
  config_.events->add("disk-detaching", id,
                      fmt::format("the guest is asked to let go of disk {}", id));
  if (seat->slot) {
    TRY(vm_->ask_to_unplug(*seat->slot));
  } else {
    host_->announce_removal(*seat->target);
  }
  look(*seat);
  return {};
}

void GuestDisks::wait(Seat& seat) {
  seat.timer = std::make_unique<boost::asio::steady_timer>(*config_.context);
  seat.timer->expires_at(std::min(seat.deadline, Clock::now() + kLookEvery));
  seat.timer->async_wait([this, number = seat.number](const boost::system::error_code& error) {
    Seat* waiting = error ? nullptr : find(number);
    if (waiting != nullptr && waiting->state == State::kAsked) look(*waiting);
  });
}

// Whether the guest has done with a target. Paused, it does nothing, and nothing follows from that.
bool GuestDisks::is_quiet(Seat& seat) {
  const VirtioScsi::TargetUse use = host_->use_of(*seat.target);
  const bool busy = use.in_flight > 0 || use.commands != seat.commands || vm_->paused();
  seat.commands = use.commands;
  if (busy) seat.quiet_since = Clock::now();
  return Clock::now() - seat.quiet_since >= kQuiet;
}

void GuestDisks::look(Seat& seat) {
  if (seat.target && is_quiet(seat)) return take_out(seat, false);
  if (Clock::now() < seat.deadline) return wait(seat);
  if (seat.force) return take_out(seat, true);
  seat.state = State::kInGuest;
  seat.refusal = fmt::format(
      "the guest {} disk {}, which stays attached; unmount it there, or detach "
      "with --force, which gives the guest I/O errors",
      seat.slot ? "has not let go of" : "still uses", seat.id);
  config_.events->add("disk-detaching", seat.id, seat.refusal);
}

void GuestDisks::ejected(unsigned slot) {
  const auto found = std::ranges::find_if(
      seats_, [slot](const auto& seat) { return seat->slot == slot && !seat->let_go; });
  if (found == seats_.end()) return;
  Seat& seat = **found;
  seat.let_go = true;
  if (seat.state == State::kInGuest || seat.state == State::kAsked) return take_out(seat, false);
  if (seat.idle) finish(seat);
}

std::function<void()> GuestDisks::later(const Seat& seat, void (GuestDisks::*act)(Seat&)) {
  return [this, number = seat.number, act] {
    boost::asio::post(*config_.context, [this, number, act] {
      if (Seat* there = find(number); there != nullptr) (this->*act)(*there);
    });
  };
}

void GuestDisks::take_out(Seat& seat, bool forced) {
  seat.state = State::kLeaving;
  seat.forced = forced;
  seat.timer.reset();
  config_.leaves(seat.id);
  config_.disks->cut_off(index_of(seat), later(seat, &GuestDisks::medium_idle));
  if (seat.target) host_->remove_target(*seat.target, later(seat, &GuestDisks::target_removed));
}

void GuestDisks::medium_idle(Seat& seat) {
  config_.disks->close(index_of(seat));
  seat.idle = true;
  if (seat.let_go) return finish(seat);
  if (seat.target) return;  // its device goes too
  seat.state = State::kGone;
  config_.events->add("disk-forced-off", seat.id,
                      fmt::format("disk {} is taken from the guest, which still has its device and "
                                  "gets I/O errors from it",
                                  seat.id));
}

void GuestDisks::target_removed(Seat& seat) {
  seat.lun.reset();
  seat.let_go = true;
  if (seat.idle) finish(seat);
}

// Neither guest nor medium knows the disk any more.
void GuestDisks::finish(Seat& seat) {
  if (seat.slot) ENSURE(vm_->unplug(*seat.slot).ok());
  config_.disks->remove(index_of(seat));
  const std::string id = seat.id;
  const bool taken = seat.forced && seat.state != State::kGone;  // of kGone it was told before
  config_.events->add(taken ? "disk-forced-off" : "disk-detached", id,
                      taken
                          ? fmt::format("disk {} is taken from the guest, which still used it", id)
                          : fmt::format("disk {} is detached", id));
  std::erase_if(seats_, [&seat](const auto& one) { return one.get() == &seat; });
}

GuestDisks::Seat* GuestDisks::find(const std::string& id) const {
  const auto found = std::ranges::find_if(seats_, [&](const auto& seat) { return seat->id == id; });
  return found == seats_.end() ? nullptr : found->get();
}

GuestDisks::Seat* GuestDisks::find(uint64_t number) const {
  const auto found =
      std::ranges::find_if(seats_, [&](const auto& seat) { return seat->number == number; });
  return found == seats_.end() ? nullptr : found->get();
}

size_t GuestDisks::index_of(const Seat& seat) const {
  const std::optional<size_t> index = config_.disks->index_of(seat.id);
  ENSURE(index.has_value());
  return *index;
}

Result<> GuestDisks::check_stays(const std::string& id) const {
  const Seat* seat = find(id);
  if (seat == nullptr || seat->state == State::kInGuest) return {};
  return make_error(ErrorKind::kLocked, "disk {} is being detached", id);
}

void GuestDisks::describe(nlohmann::json& disks) const {
  for (nlohmann::json& disk : disks) {
    const Seat* seat = find(disk["id"].get<std::string>());
    if (seat == nullptr) continue;
    if (seat->slot) disk["slot"] = *seat->slot;
    if (seat->target) disk["target"] = *seat->target;
    if (!seat->refusal.empty()) disk["refusal"] = seat->refusal;
    if (seat->state == State::kAsked) disk["state"] = "detaching";
    if (seat->state == State::kGone) disk["state"] = "gone";
    if (seat->state != State::kLeaving) continue;
    disk["state"] = "leaving";
    disk["in_flight"] = config_.disks->in_flight(index_of(*seat));
  }
}

}  // namespace plumb
