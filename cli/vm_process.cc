#include "cli/vm_process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json_socket.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "base/uuid.h"
#include "cli/attach_socket.h"
#include "cli/disk_source.h"
#include "cli/event_log.h"
#include "cli/guest_disks.h"
#include "cli/held_disks.h"
#include "cli/keeper_process.h"
#include "cli/lun_recovery.h"
#include "cli/runtime_folder.h"
#include "cli/sandbox.h"
#include "cli/terminal.h"
#include "cli/vm_disks.h"
#include "snapshot/agent_freezer.h"
#include "snapshot/freeze_journal.h"
#include "snapshot/freeze_lease.h"
#include "snapshot/generation.h"
#include "vmm/boot/loader.h"
#include "vmm/char_hub.h"
#include "vmm/control_api.h"
#include "vmm/kvm.h"
#include "vmm/virtio/console.h"
#include "vmm/virtio/net.h"
#include "vmm/virtio/rng.h"
#include "vmm/virtio/tap.h"
#include "vmm/vm.h"

namespace plumb {
namespace {

constexpr unsigned kMaxDiskQueues = 4;  // one I/O thread serves them; more only cost memory
constexpr size_t kMaxConsoleClients = 8;
constexpr int kDrainSeconds = 5;  // at the end of the VM; those who kill it wait 10

// One host CPU for each vCPU, in turn; none when they may run anywhere.
std::vector<std::vector<int>> placement_of_vcpus(const VmDefinition& definition) {
  std::vector<std::vector<int>> cpus;
  if (definition.vcpu_cpus.empty()) return cpus;
  for (unsigned i = 0; i < definition.vcpus; ++i) {
    cpus.push_back({definition.vcpu_cpus[i % definition.vcpu_cpus.size()]});
  }
  return cpus;
}

// As much as this process may have: without a privilege, its hard limit.
void allow_locked_memory() {
  rlimit limit{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) == 0) return;
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_MEMLOCK, &limit);
}

class VmProcess {
 public:
  VmProcess(const VmDefinition& definition, bool foreground, EngineDecorator decorate);
  ~VmProcess();
  VmProcess(const VmProcess&) = delete;
  VmProcess& operator=(const VmProcess&) = delete;

  Result<> start();
  Result<ExitCode> run();

 private:
  Result<> open_host_parts();
  Result<> start_disks();
  Result<> open_consoles();
  Result<> open_control_api();
  Result<> open_lease();
  Result<> boot();
  void end_guest();
  Result<> add_devices(Vm& vm);
  Result<> add_device(Vm& vm, std::unique_ptr<VirtioDevice> device, size_t position);
  void on_disk_error(const VmDisks::Failure& failure);
  void on_grown(const std::string& disk);
  void pause();
  void resume();
  std::string pause_reason() const;
  void pause_or_resume();
  Result<nlohmann::json> resize_disk(const nlohmann::json& body);
  Result<nlohmann::json> detach_disk(const nlohmann::json& body);
  void on_stop(const Vm::Stopped& stopped);
  void await_signal();
  void on_signal(int signal);
  void press_power_button(const char* asked_by);
  void end(ExitCode code);
  [[noreturn]] void leave_requests(const Error& error);
  nlohmann::json status() const;
  nlohmann::json what_is_copied() const;

  VmDefinition definition_;
  const bool foreground_;
  const EngineDecorator decorate_;  // of the disks' engines
  std::optional<RawTerminal> terminal_;
  UniqueFd lock_;
  boost::asio::io_context context_;  // the disks' threads post to it
  KeeperSockets keeper_;
  std::mutex connect_mutex_;  // of keeper_.connections
  std::optional<Kvm> kvm_;
  BootFiles boot_files_;
  std::vector<DiskSource> sources_;  // until start_disks()
  std::vector<UniqueFd> taps_;
  std::unique_ptr<IoThread> misc_thread_;  // consoles, network, random numbers, disks at need
  std::optional<VmDisks> disks_;
  std::unique_ptr<LunRecovery> recovery_;
  std::unique_ptr<CharHub> console_;
  std::unique_ptr<CharHub> agent_;
  boost::asio::signal_set signals_;
  std::unique_ptr<ControlApi> api_;
  std::unique_ptr<JsonServer> attach_server_;
  EventLog events_;
  std::optional<GuestDisks> guest_disks_;
  std::optional<FreezeJournal> freeze_journal_;
  UniqueFd lease_ends_;  // an eventfd: the lease's agent is waited for no longer
  std::optional<AgentFreezer> freezer_;
  std::optional<HeldDisks> held_disks_;
  std::optional<FreezeLease> lease_;
  std::unique_ptr<JsonServer> lease_server_;
  std::vector<unsigned> slots_;  // of the other devices, which keep them over reboots
  uint64_t boots_ = 0;
  std::unique_ptr<Vm> vm_;
  bool asked_to_pause_ = false;
  std::string stopped_image_;  // why: an error of an image whose disk waits for resume()
  std::string pause_reason_;   // while the VM is paused
  bool signalled_ = false;     // asked the guest to power off
  std::optional<Result<ExitCode>> result_;
};

VmProcess::VmProcess(const VmDefinition& definition, bool foreground, EngineDecorator decorate)
    : definition_(definition),
      foreground_(foreground),
      decorate_(std::move(decorate)),
      signals_(context_) {}

VmProcess::~VmProcess() {
  lease_server_.reset();
  if (lease_ends_) signal_eventfd(lease_ends_.get());
  lease_.reset();
  end_guest();  // and its devices first: they use all the rest
  attach_server_.reset();
  api_.reset();
}

Result<> VmProcess::start() {
  lock_ = TRY(lock_runtime_folder(definition_.name));
  // Also without a LUN: one may be attached.
  keeper_ = TRY(start_keeper());
  TRY(open_host_parts());
  TRY(give_up_privileges(RuntimePaths(definition_.name).folder,
                         {.memory_lock = definition_.registered_memory,
                          .raw_io = std::ranges::any_of(sources_, &DiskSource::physical)}));
  TRY(start_disks());
  // A ring may register memory if the thread that made it was allowed to.
  TRY(disks_->on_each_thread(drop_capabilities));
  TRY(drop_capabilities());
  TRY(open_consoles());
  TRY(open_control_api());
  TRY(open_lease());
  await_signal();
  TRY(boot());
  return restrict_system_calls();
}

// All that needs a privilege or a path, also for what a reboot needs.
Result<> VmProcess::open_host_parts() {
  if (definition_.registered_memory) allow_locked_memory();
  kvm_.emplace(TRY(Kvm::open()));
  boot_files_ = TRY(open_boot_files(definition_.kernel, definition_.initrd));
  sources_ = TRY(open_sources(definition_.disks));
  // Once the disks are ours: no revert changes it any more.
  definition_.generation_id =
      TRY(generation_in_effect(generation_folder(), definition_.uuid, definition_.generation_id));
  freeze_journal_ = TRY(FreezeJournal::open(RuntimePaths(definition_.name).freeze));
  for (const NetDefinition& net : definition_.nets) taps_.push_back(TRY(open_tap(net.tap)));
  return {};
}

Result<> VmProcess::start_disks() {
  const auto failed = [this](const VmDisks::Failure& failure) {
    boost::asio::post(context_, [this, failure] { on_disk_error(failure); });
  };
  const auto connect = [this] {
    const std::lock_guard lock(connect_mutex_);
    return connect_through_keeper(keeper_.connections.get());
  };
  const auto lost = [this](const std::string& disk, const std::string& why) {
    boost::asio::post(context_, [this, disk, why] { events_.add("snapshots-lost", disk, why); });
  };
  disks_.emplace(TRY(VmDisks::open(definition_, std::move(sources_),
                                   {.failed = failed,
                                    .snapshots_lost = lost,
                                    .connect_to_broker = connect,
                                    .decorate = decorate_})));
  recovery_ = std::make_unique<LunRecovery>(
      context_,
      LunRecovery::Config{.disks = &*disks_,
                          .keeper = std::move(keeper_.luns),
                          .event = [this](const auto& kind, const auto& disk,
                                          const auto& what) { events_.add(kind, disk, what); },
                          .grown = [this](const auto& disk) { on_grown(disk); },
                          .trouble_changed = [this] { pause_or_resume(); }});
  return {};
}

Result<> VmProcess::open_consoles() {
  const RuntimePaths paths(definition_.name);
  misc_thread_ = TRY(IoThread::start({.name = "io-misc", .engine = EngineKind::kAuto}));
  if (foreground_) terminal_.emplace(STDIN_FILENO);
  console_ = TRY(CharHub::open(
      {.socket_path = paths.console,
       .max_clients = kMaxConsoleClients,
       .lossy = true,
       .input_fd = foreground_ ? STDIN_FILENO : -1,
       .output_fd = foreground_ ? STDOUT_FILENO : -1,
       .on_escape =
           [this] { boost::asio::post(context_, [this] { press_power_button("Ctrl-]"); }); }},
      *misc_thread_));
  agent_ = TRY(CharHub::open({.socket_path = paths.agent}, *misc_thread_));
  guest_disks_.emplace(GuestDisks::Config{
      .disks = &*disks_,
      .spare = misc_thread_.get(),
      .events = &events_,
      .context = &context_,
      .came =
          [this](const std::string& disk) {
            if (!disks_->lun_of(disk).wwn.empty()) recovery_->keep(disk);
          },
      .leaves =
          [this](const std::string& disk) {
            recovery_->forget(disk);
            held_disks_->forget(disk);
          },
      .queues = static_cast<uint16_t>(std::min(definition_.vcpus, kMaxDiskQueues))});
  return {};
}

Result<> VmProcess::open_control_api() {
  using Json = nlohmann::json;
  api_ = TRY(ControlApi::listen(context_, RuntimePaths(definition_.name).control));
  api_->handle("GET", "/vm", [this](const Json&) -> Result<Json> { return status(); });
  api_->handle("PUT", "/vm/pause", [this](const Json&) -> Result<Json> {
    pause();
    return status();
  });
  api_->handle("PUT", "/vm/resume", [this](const Json&) -> Result<Json> {
    resume();
    return status();
  });
  api_->handle("GET", "/vm/events", [this](const Json&) -> Result<Json> { return events_.json(); });
  api_->handle("PUT", "/disks/resize",
               [this](const Json& body) -> Result<Json> { return resize_disk(body); });
  api_->handle("PUT", "/disks/detach",
               [this](const Json& body) -> Result<Json> { return detach_disk(body); });
  attach_server_ = TRY(listen_for_disks(context_, RuntimePaths(definition_.name).disks,
                                        [this](const DiskDefinition& disk, DiskSource source) {
                                          return guest_disks_->attach(disk, std::move(source));
                                        }));
  api_->handle_text("/metrics", [this] { return disks_->metrics(definition_.name); });
  api_->handle("PUT", "/vm/power-button", [this](const Json&) -> Result<Json> {
    press_power_button("the control API");
    return status();
  });
  api_->handle("PUT", "/vm/kill", [this](const Json&) -> Result<Json> {
    // The answer leaves before the end comes.
    boost::asio::post(context_, [this] { end(kExitOk); });
    return status();
  });
  return {};
}

// Freezing the guest and holding its disks, for `plumb snapshot` and its like.
Result<> VmProcess::open_lease() {
  lease_ends_ = TRY(make_eventfd());
  freezer_.emplace(GuestAgent::Config{.connect = [this] { return agent_->take_over(); },
                                      .cancel_fd = lease_ends_.get()});
  held_disks_.emplace(context_, *disks_);
  lease_.emplace(FreezeLease::Config{
      .context = &context_,
      .freezer = &*freezer_,
      .disks = &*held_disks_,
      .journal = &*freeze_journal_,
      .describe = [this] { return what_is_copied(); },
      .event = [this](const std::string& what) { events_.add("freeze", "", what); }});
  JsonServer::Config config{.path = RuntimePaths(definition_.name).lease,
                            .max_fds = FreezeLease::kMaxFds};
  config.request = [this](JsonServer::Id id, const nlohmann::json& request,
                          std::vector<UniqueFd> fds, JsonServer::Reply reply) {
    lease_->request(id, request, std::move(fds), std::move(reply));
  };
  config.closed = [this](JsonServer::Id id) { lease_->closed(id); };
  lease_server_ = TRY(JsonServer::listen(context_, std::move(config)));
  return {};
}

Result<> VmProcess::boot() {
  // A slot that one boot's guest ejected says nothing about the next one's.
  const auto on_ejected = [this, boot = ++boots_](unsigned slot) {
    boost::asio::post(context_, [=, this] {
      if (boot == boots_) guest_disks_->ejected(slot);
    });
  };
  const Uuid uuid = TRY(Uuid::parse(definition_.uuid));
  const Uuid generation_id = TRY(Uuid::parse(definition_.generation_id));
  vm_ = TRY(Vm::create(*kvm_, {.name = definition_.name,
                               .uuid = uuid,
                               .generation_id = generation_id,
                               .memory_bytes = definition_.memory_bytes,
                               .huge_pages = definition_.huge_pages,
                               .vcpus = definition_.vcpus,
                               .vcpu_cpus = placement_of_vcpus(definition_),
                               .serial = definition_.console == "serial" ? console_.get() : nullptr,
                               .ejected = on_ejected}));
  if (definition_.registered_memory) TRY(disks_->add_memory(vm_->memory()));
  TRY(add_devices(*vm_));
  TRY(vm_->load_kernel(boot_files_, definition_.cmdline));
  return vm_->start([this](Vm::Stopped stopped) {
    boost::asio::post(context_, [this, stopped = std::move(stopped)] { on_stop(stopped); });
  });
}

void VmProcess::end_guest() {
  vm_.reset();
  if (guest_disks_) guest_disks_->guest_ended();
  // Pinned, it would stay although it is unmapped.
  if (disks_) disks_->remove_memory();
}

Result<> VmProcess::add_devices(Vm& vm) {
  TRY(guest_disks_->add_to(vm));
  size_t position = 0;
  for (size_t i = 0; i < taps_.size(); ++i) {
    const MacAddress mac = TRY(parse_mac(definition_.nets[i].mac));
    UniqueFd tap(::fcntl(taps_[i].get(), F_DUPFD_CLOEXEC, 0));
    if (!tap) return os_error(errno, "tap {} cannot be used again", definition_.nets[i].tap);
    TRY(add_device(vm, std::make_unique<VirtioNet>(std::move(tap), mac, *misc_thread_),
                   position++));
  }
  CharBackend* console = definition_.console == "virtio" ? console_.get() : nullptr;
  TRY(add_device(vm, std::make_unique<VirtioConsole>(console, agent_.get(), *misc_thread_),
                 position++));
  return add_device(vm, std::make_unique<VirtioRng>(*misc_thread_), position);
}

// The guest knows a device by its slot: what came and went meanwhile does not move the others.
Result<> VmProcess::add_device(Vm& vm, std::unique_ptr<VirtioDevice> device, size_t position) {
  std::optional<unsigned> slot;
  if (position < slots_.size()) slot = slots_[position];
  slot = TRY(vm.add_virtio(std::move(device), false, slot));
  if (position == slots_.size()) slots_.push_back(*slot);
  return {};
}

Result<ExitCode> VmProcess::run() {
  context_.run();
  Result<> drained = disks_->drain(kDrainSeconds);
  if (drained) drained = disks_->end_overlays(kDrainSeconds);
  if (!drained) leave_requests(drained.error());
  return result_.value_or(kExitOk);
}

// A LUN without a path, whose multipath map queues: its requests may never come back, and nothing
// ends them. The kernel drops them, and the claim, after the process.
void VmProcess::leave_requests(const Error& error) {
  log::error("the VM ends all the same: {}", error.message);
  terminal_.reset();
  const Result<ExitCode> result = result_.value_or(kExitOk);
  ::_exit(result.ok() ? Result<ExitCode>(result).value() : kExitFailed);
}

void VmProcess::end(ExitCode code) {
  if (!result_) result_ = code;
  context_.stop();
}

void VmProcess::pause() {
  asked_to_pause_ = true;
  pause_or_resume();
}

// Also of what failed while the VM was paused for another reason.
void VmProcess::resume() {
  asked_to_pause_ = false;
  stopped_image_.clear();
  disks_->retry_images();
  recovery_->retry_now();
  pause_or_resume();
}

// "" when the VM is to run.
std::string VmProcess::pause_reason() const {
  if (!recovery_->trouble().empty()) return recovery_->trouble();
  if (!stopped_image_.empty()) return stopped_image_;
  return asked_to_pause_ ? "asked for" : "";
}

void VmProcess::pause_or_resume() {
  const std::string reason = pause_reason();
  const bool changed = std::exchange(pause_reason_, reason) != reason;
  if (!vm_ || reason.empty() != vm_->paused()) return;
  if (reason.empty()) {
    vm_->resume();
    events_.add("resumed", "", "the VM goes on");
  } else if (changed) {
    vm_->pause();
    events_.add("paused", "", fmt::format("the VM is paused: {}", reason));
  }
}

void VmProcess::on_disk_error(const VmDisks::Failure& failure) {
  events_.add("disk-error", failure.disk, failure.message);
  if (recovery_->keeps(failure.disk)) {
    recovery_->on_error(failure.disk, failure.error, failure.stopped, failure.message);
  } else if (failure.stopped) {
    stopped_image_ = failure.message;
    pause_or_resume();
  }
}

Result<nlohmann::json> VmProcess::resize_disk(const nlohmann::json& body) {
  const bool good = body.is_object() && body.contains("disk") && body["disk"].is_string() &&
                    (!body.contains("size_bytes") || body["size_bytes"].is_number_unsigned());
  if (!good) return usage_error("a resize needs \"disk\", and for an image \"size_bytes\"");
  const std::string disk = body["disk"];
  TRY(guest_disks_->check_stays(disk));
  const uint64_t size_bytes = TRY(disks_->resize(disk, body.value("size_bytes", uint64_t{0})));
  events_.add("resized", disk, fmt::format("disk {} has {} bytes", disk, size_bytes));
  return nlohmann::json{{"disk", disk}, {"size_bytes", size_bytes}};
}

void VmProcess::on_grown(const std::string& disk) {
  if (Result<nlohmann::json> resized = resize_disk({{"disk", disk}}); !resized) {
    log::warning("disk {} has grown, and its guest does not see it: {}", disk,
                 resized.error().message);
  }
}

Result<nlohmann::json> VmProcess::detach_disk(const nlohmann::json& body) {
  constexpr unsigned kMaxTimeoutS = 86400;
  const bool good = body.is_object() && body.contains("disk") && body["disk"].is_string() &&
                    body.contains("timeout_s") && body["timeout_s"].is_number_unsigned() &&
                    body["timeout_s"] <= kMaxTimeoutS &&
                    (!body.contains("force") || body["force"].is_boolean());
  if (!good) {
    return usage_error(
        "a detach needs \"disk\" and \"timeout_s\", {} at most, and may have \"force\"",
        kMaxTimeoutS);
  }
  TRY(guest_disks_->detach(body["disk"], std::chrono::seconds(body["timeout_s"].get<unsigned>()),
                           body.value("force", false)));
  return status();
}

void VmProcess::on_stop(const Vm::Stopped& stopped) {
  switch (stopped.reason) {
    case StopReason::kPowerOff:
      log::info("the guest powered off");
      return end(kExitOk);
    case StopReason::kCrash:
      log::error("the guest crashed: {}", stopped.message);
      return end(kExitGuestCrash);
    case StopReason::kKilled:
      return end(kExitOk);
    case StopReason::kReset:
      break;
  }
  events_.add("reset", "", "the guest reset itself");
  if (definition_.on_reboot == "exit") return end(kExitGuestReset);
  end_guest();
  if (Result<> booted = boot(); !booted) {
    result_ = std::move(booted).error();
    context_.stop();
  }
}

void VmProcess::await_signal() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) signals_.add(number);
  signals_.async_wait([this](const boost::system::error_code& error, int number) {
    if (!error) on_signal(number);
  });
}

// The first signal presses the power button, the second does not wait for the guest.
void VmProcess::on_signal(int number) {
  if (signalled_) return end(static_cast<ExitCode>(kExitSignal + number));
  signalled_ = true;
  press_power_button("a signal; another one ends the VM at once");
  await_signal();
}

void VmProcess::press_power_button(const char* asked_by) {
  log::info("power button pressed by {}", asked_by);
  vm_->power_button();
}

nlohmann::json VmProcess::status() const {
  using Json = nlohmann::json;
  Json disks = disks_->status();
  guest_disks_->describe(disks);
  Json status{{"name", definition_.name},
              {"uuid", definition_.uuid},
              {"generation_id", definition_.generation_id},
              {"state", vm_->paused() ? "paused" : "running"},
              {"pid", ::getpid()},
              {"vcpus", definition_.vcpus},
              {"memory_bytes", definition_.memory_bytes},
              {"disks", disks}};
  if (vm_->paused()) status["pause_reason"] = pause_reason_;
  if (nlohmann::json lease = lease_->status(); !lease.is_null()) status["freeze"] = lease;
  return status;
}

// The definition, with the disks that the VM has now.
nlohmann::json VmProcess::what_is_copied() const {
  VmDefinition definition = definition_;
  definition.disks.clear();
  nlohmann::json media = nlohmann::json::array();
  for (size_t i = 0; i < disks_->count(); ++i) {
    definition.disks.push_back(disks_->definition_of(i));
    media.push_back(disks_->medium_of(i));
  }
  return {{"definition", to_json(definition)},
          {"media", media},
          {"pid", ::getpid()},
          {"paused", vm_->paused()}};
}

}  // namespace

Result<ExitCode> serve_vm(const VmDefinition& definition, bool foreground,
                          const std::function<void()>& started, EngineDecorator decorate) {
  VmProcess process(definition, foreground, std::move(decorate));
  TRY(process.start());
  started();
  return process.run();
}

}  // namespace plumb
