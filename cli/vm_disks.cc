#include "cli/vm_disks.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <semaphore>
#include <utility>

#include "base/log.h"
#include "base/size.h"
#include "blockdev/file_device.h"
#include "blockdev/gone_device.h"
#include "blockdev/io_engine.h"
#include "blockdev/scsi_disk.h"
#include "cli/disk_metrics.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr int kNoLimit = -1;  // seconds

// `then`: what ends the pause.
std::string describe(const DiskError& error, const std::string& id, const std::string& label,
                     std::string_view then) {
  std::string text =
      fmt::format("disk {} ({}): {} of {} bytes at {} failed: {}", id, label, name_of(error.op),
                  error.length, error.offset, std::strerror(error.error));
  if (error.unspoken > 0) text += fmt::format(" (and {} errors before it)", error.unspoken);
  if (error.stopped) text += fmt::format("; the VM is paused, {}", then);
  return text;
}

int64_t retry_deadline_ns(Disk& disk) {
  return disk.thread().turn_ns() + int64_t{VmDisks::kRetrySeconds} * 1'000'000'000;
}

// Nothing may be in flight when the device gets another descriptor.
void reopen_on_thread(Disk& disk, FileDevice& under, LunAccess* access, UniqueFd fd,
                      const FileFacts& facts, VmDisks::Reopened reopened) {
  disk.hold(retry_deadline_ns(disk), [&, access, fd = std::move(fd), facts,
                                      reopened = std::move(reopened)](Result<> drained) mutable {
    if (!drained) return reopened(std::move(drained));
    Result<> done = under.reopen(std::move(fd), facts);
    if (done && access != nullptr) access->reopen(under.fd());
    // It is open, whatever its size says: the keeper has looked at that.
    if (Result<> grown = done ? disk.reread_size() : Result<>(); !grown) {
      log::warning("disk {}: {}", disk.config().id, grown.error().message);
    }
    disk.release();
    reopened(std::move(done));
  });
}

void retry_on_thread(Disk& disk, VmDisks::Retried retried) {
  disk.retry();
  disk.hold(retry_deadline_ns(disk), [&disk, retried = std::move(retried)](Result<> ended) mutable {
    if (ended) disk.release();
    retried(std::move(ended), disk.stopped());
  });
}

// A LUN shows its own name, so that what looks for it by that finds it in the guest too.
ScsiIdentity scsi_identity(const std::string& serial, const std::string& wwn) {
  ScsiIdentity identity{.vendor = "PLUMB", .product = "VIRTUAL DISK", .revision = "1"};
  identity.serial = serial;
  constexpr std::string_view kNaa = "naa.";
  if (!wwn.starts_with(kNaa)) return identity;
  for (size_t at = kNaa.size(); at + 1 < wwn.size(); at += 2) {
    uint8_t byte = 0;
    std::from_chars(wwn.data() + at, wwn.data() + at + 2, byte, 16);
    identity.naa.push_back(byte);
  }
  return identity;
}

}  // namespace

Result<IoThread*> VmDisks::thread_for(const VmDefinition& definition, const DiskDefinition& disk,
                                      const EngineDecorator& decorate) {
  const bool scsi = disk.bus == "scsi";
  if (scsi && scsi_thread_ != nullptr) {
    if (disk.engine == scsi_engine_) return scsi_thread_;
    return usage_error(
        "disk {} asks for engine {}, but disks on the SCSI bus share one, which is {}", disk.id,
        disk.engine, scsi_engine_);
  }
  const EngineKind engine = TRY(parse_engine_kind(disk.engine));
  // Thread names end at 15 characters (prctl(2), PR_SET_NAME).
  const std::string name = scsi ? "io-scsi" : ("io-" + disk.id).substr(0, 15);
  threads_.push_back(TRY(IoThread::start({.name = name,
                                          .engine = engine,
                                          .cpus = definition.io_thread_cpus,
                                          .poll_max_ns = int64_t{1000} * definition.io_poll_us,
                                          .decorate = decorate})));
  if (scsi) {
    scsi_thread_ = threads_.back().get();
    scsi_engine_ = disk.engine;
  }
  return threads_.back().get();
}

Result<IoThread*> VmDisks::thread_for_later(const DiskDefinition& disk, IoThread& spare) {
  const bool scsi = disk.bus == "scsi";
  const auto disks_of = [this](const auto& thread) {
    return std::ranges::count(disks_, thread.get(), &Open::thread);
  };
  const auto quietest = std::ranges::min_element(threads_, {}, disks_of);
  IoThread* thread = quietest == threads_.end() ? &spare : quietest->get();
  if (scsi && scsi_thread_ != nullptr) thread = scsi_thread_;
  if (disk.engine != "auto" && disk.engine != thread->engine_name()) {
    return usage_error(
        "disk {} asks for engine {}, but a disk that is attached later shares the I/O thread of "
        "others, whose engine is {}",
        disk.id, disk.engine, thread->engine_name());
  }
  if (scsi) scsi_thread_ = thread;
  return thread;
}

Result<> VmDisks::attach(const DiskDefinition& disk, DiskSource source, IoThread& spare) {
  if (index_of(disk.id)) {
    return usage_error("the VM has a disk '{}' already; give the new one another id", disk.id);
  }
  const auto twin = std::ranges::find(disks_, source.wwn, &Open::wwn);
  if (!source.wwn.empty() && twin != disks_.end()) {
    return usage_error("the VM has LUN {} already, as disk '{}'; it can have it once", source.wwn,
                       twin->definition.id);
  }
  IoThread* thread = TRY(thread_for_later(disk, spare));
  return open_one(disk, std::move(source), *thread);
}

std::unique_ptr<CowKeeper> VmDisks::make_keeper(const DiskDefinition& disk,
                                                const DiskSource& source) const {
  CowKeeper::Config config{.disk = source.identity()};
  config.unreadable_breaks = disk.on_error != "pause";
  config.broken = [lost = config_.snapshots_lost, id = disk.id](const std::string& why) {
    log::warning("disk {}: {}", id, why);
    if (lost) lost(id, why);
  };
  return std::make_unique<CowKeeper>(std::move(config));
}

Result<> VmDisks::open_one(const DiskDefinition& disk, DiskSource source, IoThread& thread) {
  Open open;
  open.thread = &thread;
  open.definition = disk;
  open.label = source.label;
  open.device = source.device;
  open.wwn = source.wwn;
  open.mapping = std::move(source.mapping);
  open.claim = source.claim;
  if (disk.bus == "scsi" && open.is_lun()) {
    open.access = TRY(LunAccess::open(source, disk.id, config_.connect_to_broker, *open.thread));
  }
  const char* mode = source.physical() ? "physical, " : "";
  auto device = std::make_unique<FileDevice>(
      FileDevice::Config{.fd = std::move(source.fd), .label = source.label}, source.facts,
      *open.thread);
  open.under = device.get();
  open.physical = source.physical();
  open.keeper = make_keeper(disk, source);
  std::unique_ptr<BlockDevice> stack =
      TRY(open.keeper->start(std::move(device), std::move(source.overlay), *open.thread));
  Disk::Config config{.id = disk.id, .serial = disk.serial};
  config.cache = disk.cache == "writeback" ? CacheMode::kWriteback : CacheMode::kWritethrough;
  config.on_error = disk.on_error == "pause" ? ErrorPolicy::kPause : ErrorPolicy::kReport;
  config.limit = {.requests_per_second = disk.iops,
                  .bytes_per_second = disk.bandwidth_bytes,
                  .burst_seconds = static_cast<double>(disk.burst_seconds)};
  const std::string_view then =
      open.is_lun() ? "its LUN is looked at" : "`plumb resume` tries again";
  config.failed = [failed = config_.failed, id = disk.id, label = source.label,
                   then](const DiskError& error) {
    failed({id, describe(error, id, label, then), error.error, error.stopped});
  };
  open.disk = std::make_unique<Disk>(std::move(config), std::move(stack), *open.thread);
  log::info("disk {}: {} at {}, {}{}, {}, {} ({})", disk.id, open.label, open.device, mode,
            format_size(open.disk->info().size_bytes), disk.cache, open.thread->engine_name(),
            open.thread->engine_reason());
  disks_.push_back(std::move(open));
  return {};
}

Result<VmDisks> VmDisks::open(const VmDefinition& definition, std::vector<DiskSource> sources,
                              Config config) {
  VmDisks disks;
  disks.config_ = std::move(config);
  for (size_t i = 0; i < sources.size(); ++i) {
    const DiskDefinition& disk = definition.disks[i];
    IoThread* thread = TRY(disks.thread_for(definition, disk, disks.config_.decorate));
    TRY(disks.open_one(disk, std::move(sources[i]), *thread));
  }
  return disks;
}

std::unique_ptr<ScsiLun> VmDisks::make_scsi_unit(size_t index) {
  Open& open = disks_[index];
  ScsiIdentity identity = scsi_identity(open.definition.serial, open.wwn);
  if (open.access != nullptr) return open.access->make_unit(*open.disk, std::move(identity));
  return std::make_unique<ScsiDisk>(*open.disk, std::move(identity));
}

const char* VmDisks::not_kept(const Open& open) {
  if (open.claim.shared) return "the LUN is shared, and others write to it too";
  return open.physical ? "the LUN is in physical mode, and takes commands from the guest" : "";
}

Json VmDisks::medium_of(size_t index) const {
  const Open& open = disks_[index];
  Json medium{{"id", open.definition.id},
              {"device", open.device},
              {"wwn", open.wwn},
              {"size_bytes", size_of(open)},
              {"read_only", open.definition.read_only},
              {"not_kept", not_kept(open)}};
  struct stat status {};
  if (!open.is_lun() && open.under != nullptr && ::fstat(fd_of(open.definition.id), &status) == 0) {
    medium["st_dev"] = status.st_dev;
    medium["st_ino"] = status.st_ino;
  }
  return medium;
}

std::optional<size_t> VmDisks::index_of(const std::string& id) const {
  for (size_t i = 0; i < disks_.size(); ++i) {
    if (disks_[i].definition.id == id) return i;
  }
  return std::nullopt;
}

void VmDisks::cut_off(size_t index, std::function<void()> idle) {
  Open& open = disks_[index];
  CowKeeper* keeper = open.keeper.get();
  open.thread->run(
      [&] { open.disk->cut_off([keeper, idle = std::move(idle)] { keeper->when_idle(idle); }); });
}

uint32_t VmDisks::in_flight(size_t index) {
  uint32_t count = 0;
  disks_[index].thread->run([&] { count = disks_[index].disk->in_flight(); });
  return count;
}

void VmDisks::close(size_t index) {
  Open& open = disks_[index];
  end_overlay(open, kNoLimit);
  open.thread->run([&] {
    Disk& disk = *open.disk;
    disk.replace_device(std::make_unique<GoneDevice>(disk.info()));
  });
  open.under = nullptr;
  if (open.access != nullptr) open.access->close();
  open.mapping.reset();
  open.wwn.clear();  // the VM may have the LUN again
}

void VmDisks::remove(size_t index) {
  const Open gone = std::move(disks_[index]);  // its parts go in their order
  disks_.erase(disks_.begin() + static_cast<std::ptrdiff_t>(index));
}

Result<CowKeeper::OpenOverlay> VmDisks::examine_overlay(size_t index, UniqueFd overlay,
                                                        const std::string& label) const {
  const Open& open = disks_[index];
  return open.keeper->examine(std::move(overlay), label, size_of(open), *open.thread);
}

// Nothing is in flight. False: it did not come to its end in time.
bool VmDisks::end_overlay(Open& open, int seconds) {
  bool keeps = false;
  int fd = -1;
  open.thread->run([&] {
    keeps = !open.keeper->uuid().empty();
    if (keeps) fd = open.under->fd();
  });
  if (!keeps) return true;
  Result<CowBaseStamp> base = stamp_cow_base(fd, open.label);
  if (!base) {
    log::warning("disk {}: {}", open.definition.id, base.error().message);
    return true;
  }
  const auto ended = std::make_shared<std::binary_semaphore>(0);
  open.thread->run([&] {
    open.keeper->end(*open.disk, *base, [ended, id = open.definition.id](Result<> done) {
      if (!done) log::warning("disk {}: {}", id, done.error().message);
      ended->release();
    });
  });
  if (seconds != kNoLimit) return ended->try_acquire_for(std::chrono::seconds(seconds));
  ended->acquire();
  return true;
}

Result<> VmDisks::end_overlays(int seconds) {
  for (Open& open : disks_) {
    if (open.under == nullptr || end_overlay(open, seconds)) continue;
    return failed("disk {}: the overlay of its snapshots does not answer", open.definition.id);
  }
  return {};
}

Result<> VmDisks::on_each_thread(const std::function<Result<>()>& act) {
  for (const auto& thread : threads_) {
    Result<> done;
    thread->run([&] { done = act(); });
    TRY(done);
  }
  return {};
}

Result<> VmDisks::add_memory(const GuestMemory& memory) {
  std::vector<iovec> regions;
  for (const GuestMemory::Region& region : memory.regions()) {
    regions.push_back({.iov_base = region.host, .iov_len = region.size_bytes});
  }
  for (const auto& thread : threads_) {
    Result<> added;
    thread->run([&] { added = thread->engine().add_memory(regions); });
    if (added) continue;
    remove_memory();
    const auto disk = std::ranges::find(disks_, thread.get(), &Open::thread);
    return failed("disk {}: {}, or leave registered-memory out", disk->definition.id,
                  added.error().message);
  }
  return {};
}

void VmDisks::remove_memory() {
  for (const auto& thread : threads_) {
    thread->run([&thread] { thread->engine().remove_memory(); });
  }
}

void VmDisks::retry_images() {
  for (const Open& open : disks_) {
    if (!open.is_lun()) open.thread->run([&open] { open.disk->retry(); });
  }
}

const VmDisks::Open& VmDisks::find(const std::string& disk) const {
  const std::optional<size_t> index = index_of(disk);
  ENSURE(index.has_value());
  return disks_[*index];
}

VmDisks::LunView VmDisks::lun_of(const std::string& disk) const {
  const Open& open = find(disk);
  return {.wwn = open.wwn,
          .device = open.device,
          .claim = open.claim,
          .discard = open.definition.discard,
          .pauses = open.definition.on_error == "pause",
          .path_timeout_s = open.definition.path_timeout_s};
}

const DiskStats& VmDisks::stats_of(const std::string& disk) const {
  return find(disk).disk->stats();
}

int VmDisks::fd_of(const std::string& disk) const {
  const Open& open = find(disk);
  int fd = -1;
  open.thread->run([&] { fd = open.under->fd(); });
  return fd;
}

void VmDisks::stop(const std::string& disk) {
  const Open& open = find(disk);
  open.thread->run([&open] { open.disk->stop(); });
}

void VmDisks::set_pauses(const std::string& disk, bool pauses) {
  const Open& open = find(disk);
  const ErrorPolicy policy = pauses ? ErrorPolicy::kPause : ErrorPolicy::kReport;
  open.thread->run([&] { open.disk->set_on_error(policy); });
}

void VmDisks::reopen(const std::string& disk, DiskSource source, Reopened reopened) {
  const Open& open = find(disk);
  open.thread->post([disk = open.disk.get(), under = open.under, access = open.access.get(),
                     fd = std::move(source.fd), facts = source.facts,
                     reopened = std::move(reopened)]() mutable {
    reopen_on_thread(*disk, *under, access, std::move(fd), facts, std::move(reopened));
  });
}

void VmDisks::set_device(const std::string& disk, const std::string& device) {
  const std::optional<size_t> index = index_of(disk);
  ENSURE(index.has_value());
  disks_[*index].device = device;
}

void VmDisks::retry(const std::string& disk, Retried retried) {
  const Open& open = find(disk);
  open.thread->post([disk = open.disk.get(), retried = std::move(retried)]() mutable {
    retry_on_thread(*disk, std::move(retried));
  });
}

Result<> VmDisks::drain(int seconds) {
  std::vector<Result<>> drained(disks_.size());
  std::counting_semaphore<> ended(0);
  for (size_t i = 0; i < disks_.size(); ++i) {
    disks_[i].thread->run([&, i] {
      const int64_t now_ns = disks_[i].thread->turn_ns();
      disks_[i].disk->hold(now_ns + int64_t{seconds} * 1'000'000'000, [&, i](Result<> result) {
        drained[i] = std::move(result);
        ended.release();
      });
    });
  }
  for (size_t i = 0; i < disks_.size(); ++i) ended.acquire();
  for (Result<>& result : drained) TRY(std::move(result));
  return {};
}

uint64_t VmDisks::size_of(const Open& open) {
  uint64_t size_bytes = 0;
  open.thread->run([&] { size_bytes = open.disk->info().size_bytes; });
  return size_bytes;
}

Result<uint64_t> VmDisks::resize(const std::string& id, uint64_t size_bytes) {
  const std::optional<size_t> index = index_of(id);
  if (!index) {
    return make_error(ErrorKind::kNotFound, "this VM has no disk '{}'", id);
  }
  const Open* found = &disks_[*index];
  const uint64_t now_bytes = size_of(*found);
  const uint32_t block = found->disk->info().logical_block_size;
  if (size_bytes != 0) {
    if (found->is_lun()) {
      return usage_error(
          "disk {} is a LUN: grow it in its array and have the host rescan it, then "
          "resize without a size",
          id);
    }
    if (found->definition.read_only) return usage_error("disk {} is read-only", id);
    if (size_bytes % block != 0) {
      return usage_error("{} bytes are not a multiple of the block size {} of disk {}", size_bytes,
                         block, id);
    }
    if (size_bytes < now_bytes) {
      return usage_error("disk {} has {} bytes, and a smaller disk would lose what is behind {}",
                         id, now_bytes, size_bytes);
    }
    // Its new end is on the medium before the guest hears of it. An image keeps its descriptor.
    const int fd = fd_of(id);
    if (::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0 || ::fsync(fd) != 0) {
      return os_error(errno, "disk {} ({}) cannot grow to {} bytes", id, found->label, size_bytes);
    }
  }
  Result<> reread;
  found->thread->run([&] { reread = found->disk->reread_size(); });
  TRY(reread);
  const uint64_t then_bytes = size_of(*found);
  if (then_bytes != now_bytes)
    log::info("disk {} has grown from {} to {} bytes", id, now_bytes, then_bytes);
  return then_bytes;
}

Json VmDisks::status() const {
  Json all = Json::array();
  for (const Open& open : disks_) {
    const DiskDefinition& disk = open.definition;
    bool stopped = false;
    uint64_t kept_bytes = 0;
    open.thread->run([&] {
      stopped = open.disk->stopped();
      kept_bytes = open.keeper->kept_bytes();
    });
    all.push_back({{"id", disk.id},
                   {"serial", disk.serial},
                   {"source", disk.image + disk.lun + disk.rdm},  // one of them
                   {"device", open.device},
                   {"wwn", open.wwn},
                   {"size_bytes", size_of(open)},
                   {"read_only", disk.read_only},
                   {"bus", disk.bus},
                   {"cache", disk.cache},
                   {"engine", open.thread->engine_name()},
                   {"io_thread_waits", open.thread->waits()},
                   {"on_error", disk.on_error},
                   {"state", stopped ? "stopped" : "running"},
                   {"snapshot_kept_bytes", kept_bytes},
                   {"statistics", statistics_json(open.disk->stats())}});
  }
  return all;
}

std::string VmDisks::metrics(const std::string& vm) const {
  std::vector<NamedStats> all;
  for (const Open& open : disks_) all.push_back({open.definition.id, &open.disk->stats()});
  return prometheus_text(vm, all);
}

}  // namespace plumb
