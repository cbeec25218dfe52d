#include "vmm/virtio/scsi.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "base/iovecs.h"

namespace plumb {
namespace {

// 5.6.3.
constexpr uint64_t kFeatureHotplug = 1ULL << 1U;
constexpr uint64_t kFeatureChange = 1ULL << 2U;

// 5.6.4: where the fields of the configuration space are.
constexpr size_t kConfigNumQueues = 0;
constexpr size_t kConfigSegMax = 4;
constexpr size_t kConfigMaxSectors = 8;
constexpr size_t kConfigCmdPerLun = 12;
constexpr size_t kConfigEventInfoSize = 16;
constexpr size_t kConfigSenseSize = 20;
constexpr size_t kConfigCdbSize = 24;
constexpr size_t kConfigMaxTarget = 30;
constexpr size_t kConfigMaxLun = 32;
constexpr size_t kConfigBytes = 36;

constexpr uint32_t kDefaultSenseSize = 96;
constexpr uint32_t kDefaultCdbSize = 32;
// Of a header, what the driver may make sense data or CDB: more than any has.
constexpr uint32_t kMaxHeaderPart = 252;
constexpr uint32_t kCommandsPerLun = 128;
constexpr uint32_t kMaxTransferSectors = 8192;

constexpr uint16_t kControlQueue = 0;
constexpr uint16_t kEventQueue = 1;
constexpr uint16_t kFirstRequestQueue = 2;

// 5.6.6.3.
constexpr size_t kEventBytes = 16;
constexpr uint32_t kEventNone = 0;
constexpr uint32_t kEventTransportReset = 1;
constexpr uint32_t kReasonRescan = 1;
constexpr uint32_t kReasonRemoved = 2;
constexpr uint32_t kEventParameterChange = 3;
constexpr uint32_t kEventsMissed = 1U << 31U;

std::vector<uint16_t> sizes(uint16_t queues) {
  std::vector<uint16_t> all(size_t{kFirstRequestQueue} + queues, VirtioScsi::kQueueSize);
  all[kControlQueue] = VirtioScsi::kControlQueueSize;
  all[kEventQueue] = VirtioScsi::kControlQueueSize;
  return all;
}

}  // namespace

// A request at a logical unit.
struct VirtioScsi::Slot : ScsiCommand {
  VirtioScsi* device = nullptr;
  uint16_t queue = 0;
  std::optional<VirtqueueChain> chain;  // set while in flight
  ScsiRequest request;
  uint64_t sequence = 0;
  uint64_t data_bytes = 0;    // room for data, in or out
  bool takes_data = false;    // the data come in
  uint8_t aborted = kScsiOk;  // the response instead, when a task request ends it
  Slot* next_free = nullptr;
};

// A task management function that waits for the requests that it affects.
struct VirtioScsi::TaskRequest {
  ScsiControl control;
  VirtqueueChain chain;
  uint64_t sequence = 0;  // of the last request before it
};

struct VirtioScsi::Event {
  uint32_t event = kEventNone;
  uint8_t target = 0;
  uint32_t reason = 0;
};

VirtioScsi::VirtioScsi(IoThread& thread, uint16_t queues)
    : thread_(thread),
      queue_sizes_(sizes(queues)),
      sense_size_(kDefaultSenseSize),
      cdb_size_(kDefaultCdbSize),
      queues_({.name = "SCSI host",
               .sizes = queue_sizes_,
               .max_segments = kSegMax + 2,
               .kicked = [this](uint16_t queue) { kicked(queue); },
               .first_polled = kFirstRequestQueue,
               .few_in_flight = [this] { return in_flight_ > 0 && in_flight_ <= kFewInFlight; }},
              thread),
      slots_(kSlots) {
  for (Slot& slot : slots_) {
    slot.device = this;
    slot.done = finished;
    slot.next_free = std::exchange(free_, &slot);
  }
}

VirtioScsi::~VirtioScsi() {
  reset();
  thread_.run([this] {
    for (const Target& target : targets_) {
      if (target.lun != nullptr) target.lun->on_change({});
    }
  });
}

void VirtioScsi::add_target(uint8_t target, ScsiLun& lun) {
  thread_.run([this, target, &lun] {
    ENSURE(targets_[target].lun == nullptr);
    targets_[target] = {.lun = &lun, .use = {}, .removed = {}};
    lun.on_change([this, target](ScsiSense sense) {
      const uint32_t reason = sense.asc | (uint32_t{sense.ascq} << 8U);
      if (changes_told_) post({kEventParameterChange, target, reason});
    });
    if (hotplug_told_) post({kEventTransportReset, target, kReasonRescan});
  });
}

void VirtioScsi::announce_removal(uint8_t target) {
  thread_.run([this, target] {
    if (hotplug_told_) post({kEventTransportReset, target, kReasonRemoved});
  });
}

void VirtioScsi::remove_target(uint8_t target, std::function<void()> removed) {
  thread_.run([&] {
    Target& leaving = targets_[target];
    ENSURE(leaving.lun != nullptr && !leaving.removed);
    leaving.removed = std::move(removed);
    for (Slot& slot : slots_) {
      const bool its = slot.chain && slot.request.lun[1] == target;
      // The last one, when it ends here, ends the removal too.
      if (its && leaving.lun->withdraw(slot)) answer(slot, kScsiBadTarget);
    }
    tasks_.remove_if([this](TaskRequest& request) { return finish_if_done(request); });
    serve_starved();
    if (leaving.removed && leaving.use.in_flight == 0) finish_removal(leaving);
  });
}

VirtioScsi::TargetUse VirtioScsi::use_of(uint8_t target) {
  TargetUse use;
  thread_.run([&] { use = targets_[target].use; });
  return use;
}

// The logical unit may be in the middle of ending its last command: who waits is told later.
void VirtioScsi::finish_removal(Target& target) {
  target.lun->on_change({});
  thread_.post([removed = std::move(target.removed)] { removed(); });
  target = {};
}

uint64_t VirtioScsi::features() const {
  return kVirtioFVersion1 | kVirtioFIndirectDesc | kVirtioFEventIdx | kFeatureHotplug |
         kFeatureChange;
}

void VirtioScsi::read_config(uint32_t offset, std::span<std::byte> data) {
  std::array<std::byte, kConfigBytes> config{};
  store_le(&config[kConfigNumQueues],
           static_cast<uint32_t>(queue_sizes_.size() - kFirstRequestQueue));
  store_le(&config[kConfigSegMax], uint32_t{kSegMax});
  store_le(&config[kConfigMaxSectors], kMaxTransferSectors);
  store_le(&config[kConfigCmdPerLun], kCommandsPerLun);
  store_le(&config[kConfigEventInfoSize], static_cast<uint32_t>(kEventBytes));
  store_le(&config[kConfigSenseSize], sense_size_.load());
  store_le(&config[kConfigCdbSize], cdb_size_.load());
  store_le(&config[kConfigMaxTarget], static_cast<uint16_t>(kTargets - 1));
  store_le(&config[kConfigMaxLun], uint32_t{0});
  std::fill(data.begin(), data.end(), std::byte{0});
  if (offset >= config.size()) return;
  const size_t count = std::min(data.size(), config.size() - offset);
  std::copy_n(config.begin() + offset, count, data.begin());
}

void VirtioScsi::write_config(uint32_t offset, std::span<const std::byte> data) {
  if (data.size() != sizeof(uint32_t)) return;
  const auto value = load_le<uint32_t>(data.data());
  if (value > kMaxHeaderPart) return;
  if (offset == kConfigSenseSize) sense_size_ = value;
  if (offset == kConfigCdbSize) cdb_size_ = value;
}

Result<> VirtioScsi::activate(const VirtioActivation& activation) {
  return queues_.activate(activation, [&] {
    active_ = true;
    stopping_ = false;
    starved_ = false;
    changes_told_ = (activation.features & kFeatureChange) != 0;
    hotplug_told_ = (activation.features & kFeatureHotplug) != 0;
  });
}

void VirtioScsi::kicked(uint16_t queue) {
  if (stopping_) return;
  if (queue == kControlQueue) {
    queues_.serve(queue, [this](VirtqueueChain chain) {
      control(std::move(chain));
      return true;
    });
  } else if (queue == kEventQueue) {
    send_events();
  } else {
    serve_requests(queue);
  }
}

void VirtioScsi::serve_requests(uint16_t queue) {
  if (free_ != nullptr) {
    queues_.serve(queue, [this, queue](VirtqueueChain chain) {
      start(queue, std::move(chain));
      return free_ != nullptr;
    });
  }
  starved_ = starved_ || free_ == nullptr;
}

void VirtioScsi::start(uint16_t queue, VirtqueueChain chain) {
  std::optional<ScsiRequest> request =
      parse_scsi_request(chain.readable(), chain.writable(), cdb_size_, sense_size_);
  if (!request) return queues_.push(queue, std::move(chain), 0);
  const std::optional<uint8_t> address = target_of(request->lun);
  Target* target = address ? &targets_[*address] : nullptr;
  if (target == nullptr || target->lun == nullptr || target->removed) {
    return refuse(queue, std::move(chain), *request, kScsiBadTarget);
  }
  const uint64_t out = total_bytes(request->data_out);
  const uint64_t in = total_bytes(request->data_in);
  // Both at once needs INOUT, which is not offered.
  if (out > 0 && in > 0) return refuse(queue, std::move(chain), *request, kScsiFailure);
  Slot& slot = *free_;
  free_ = slot.next_free;
  slot.queue = queue;
  slot.chain.emplace(std::move(chain));
  slot.request = *request;
  slot.sequence = ++sequence_;
  slot.data_bytes = out + in;
  slot.takes_data = in > 0;
  slot.aborted = kScsiOk;
  slot.cdb = request->cdb;
  slot.data_out = request->data_out;
  slot.data_in = request->data_in;
  ++in_flight_;
  ++target->use.in_flight;
  ++target->use.commands;
  target->lun->execute(slot);
}

// Without a logical unit having seen it.
void VirtioScsi::refuse(uint16_t queue, VirtqueueChain chain, const ScsiRequest& request,
                        uint8_t response) {
  std::array<std::byte, kScsiResponseBytes> header{};
  header[11] = std::byte{response};
  request.response.put(header);
  queues_.push(queue, std::move(chain), header.size());
}

void VirtioScsi::finished(ScsiCommand& command) {
  Slot& slot = static_cast<Slot&>(command);
  slot.device->complete(slot);
}

void VirtioScsi::complete(Slot& slot) {
  const uint8_t normal = slot.overrun ? kScsiOverrun : kScsiOk;
  answer(slot, slot.aborted != kScsiOk ? slot.aborted : normal);
  tasks_.remove_if([this](TaskRequest& request) { return finish_if_done(request); });
  if (stopping_) {
    if (in_flight_ == 0) idle_.release();
    return;
  }
  serve_starved();
}

// For whenever slots have become free.
void VirtioScsi::serve_starved() {
  if (!std::exchange(starved_, false)) return;
  for (size_t queue = kFirstRequestQueue; queue < queue_sizes_.size(); ++queue) {
    serve_requests(static_cast<uint16_t>(queue));
  }
}

// 5.6.6.1: sense_len, residual, status_qualifier, status, response, sense.
void VirtioScsi::answer(Slot& slot, uint8_t response) {
  VirtqueueChain chain = std::move(*std::exchange(slot.chain, std::nullopt));
  if (stopping_) {
    queues_.abandon(slot.queue, std::move(chain));
    return free_slot(slot);
  }
  std::array<std::byte, kScsiResponseBytes + kScsiSenseBytes> bytes{};
  uint64_t moved = 0;
  size_t sense_bytes = 0;
  if (response == kScsiOk) {
    moved = slot.moved_bytes;
    sense_bytes = std::min<size_t>(slot.sense_bytes, sense_size_);
    bytes[10] = static_cast<std::byte>(slot.status);
    std::memcpy(&bytes[kScsiResponseBytes], slot.sense.data(), sense_bytes);
  }
  store_le(&bytes[0], static_cast<uint32_t>(sense_bytes));
  store_le(&bytes[4], static_cast<uint32_t>(slot.data_bytes - moved));
  bytes[11] = std::byte{response};
  const size_t head = kScsiResponseBytes + sense_bytes;
  slot.request.response.put(std::span(bytes).first(head));
  // The used length counts from the first writable byte on: with data, all before them.
  const uint64_t written =
      slot.takes_data && moved > 0 ? kScsiResponseBytes + sense_size_.load() + moved : head;
  queues_.push(slot.queue, std::move(chain), static_cast<uint32_t>(written));
  free_slot(slot);
}

void VirtioScsi::free_slot(Slot& slot) {
  slot.next_free = std::exchange(free_, &slot);
  --in_flight_;
  Target& target = targets_[slot.request.lun[1]];
  if (--target.use.in_flight == 0 && target.removed) finish_removal(target);
}

void VirtioScsi::control(VirtqueueChain chain) {
  const std::optional<ScsiControl> request = parse_scsi_control(chain.readable(), chain.writable());
  if (!request) return queues_.push(kControlQueue, std::move(chain), 0);
  if (request->manages_tasks) return manage_tasks(std::move(chain), *request);
  // No asynchronous event is supported: event_actual is 0.
  const std::array<std::byte, 5> none{};
  request->response.put(none);
  queues_.push(kControlQueue, std::move(chain), none.size());
}

void VirtioScsi::manage_tasks(VirtqueueChain chain, const ScsiControl& control) {
  const auto reply = [&](uint8_t response) {
    const std::byte byte{response};
    control.response.put(std::span(&byte, 1));
    queues_.push(kControlQueue, std::move(chain), 1);
  };
  const std::optional<uint8_t> target = target_of(control.lun);
  const bool nexus = static_cast<ScsiTask>(control.task) == ScsiTask::kNexusReset;
  const bool known_target = control.lun[0] == 1 && targets_[control.lun[1]].lun != nullptr;
  if (!known_target) return reply(kScsiBadTarget);
  if (!nexus && !target) return reply(kScsiIncorrectLun);
  switch (static_cast<ScsiTask>(control.task)) {
    case ScsiTask::kAbortTask:
    case ScsiTask::kAbortTaskSet:
    case ScsiTask::kClearTaskSet:
    case ScsiTask::kNexusReset:
    case ScsiTask::kLunReset: {
      tasks_.push_back({control, std::move(chain), sequence_});
      abort_affected(tasks_.back());
      tasks_.remove_if([this](TaskRequest& request) { return finish_if_done(request); });
      serve_starved();
      return;
    }
    case ScsiTask::kQueryTask:
    case ScsiTask::kQueryTaskSet:
      return reply(any_affected(control, sequence_) ? kScsiFunctionSucceeded
                                                    : kScsiFunctionComplete);
    default:
      return reply(kScsiFunctionRejected);
  }
}

// Whether the slot's request came at `sequence` or before, and is one that `control` means.
bool VirtioScsi::affected(const Slot& slot, const ScsiControl& control, uint64_t sequence) {
  if (!slot.chain || slot.sequence > sequence) return false;
  if (slot.request.lun[1] != control.lun[1]) return false;
  const auto task = static_cast<ScsiTask>(control.task);
  const bool one = task == ScsiTask::kAbortTask || task == ScsiTask::kQueryTask;
  return !one || slot.request.id == control.id;
}

bool VirtioScsi::any_affected(const ScsiControl& control, uint64_t sequence) const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [&](const Slot& slot) { return affected(slot, control, sequence); });
}

void VirtioScsi::abort_affected(const TaskRequest& request) {
  const auto task = static_cast<ScsiTask>(request.control.task);
  const bool reset = task == ScsiTask::kLunReset || task == ScsiTask::kNexusReset;
  for (Slot& slot : slots_) {
    if (!affected(slot, request.control, request.sequence)) continue;
    slot.aborted = reset ? kScsiReset : kScsiAborted;
    if (targets_[slot.request.lun[1]].lun->withdraw(slot)) answer(slot, slot.aborted);
  }
}

// 5.6.6.2: what it affects completes before it does.
bool VirtioScsi::finish_if_done(TaskRequest& request) {
  if (any_affected(request.control, request.sequence)) return false;
  if (stopping_) {
    queues_.abandon(kControlQueue, std::move(request.chain));
    return true;
  }
  const auto task = static_cast<ScsiTask>(request.control.task);
  ScsiLun* lun = targets_[request.control.lun[1]].lun;  // none: it was removed meanwhile
  const bool reset = task == ScsiTask::kLunReset || task == ScsiTask::kNexusReset;
  if (reset && lun != nullptr) lun->reset();
  const std::byte complete{kScsiFunctionComplete};
  request.control.response.put(std::span(&complete, 1));
  queues_.push(kControlQueue, std::move(request.chain), 1);
  return true;
}

void VirtioScsi::post(const Event& event) {
  if (!active_ || stopping_) return;
  if (events_.size() == kMaxEvents) {
    events_missed_ = true;
  } else {
    events_.push_back(event);
  }
  send_events();
}

void VirtioScsi::send_events() {
  while (!events_.empty() || events_missed_) {
    std::optional<VirtqueueChain> chain = queues_.pop(kEventQueue);
    if (!chain) {
      if (!queues_.enable_kicks(kEventQueue)) return;
      continue;
    }
    Event event;
    if (!events_.empty()) {
      event = events_.front();
      events_.pop_front();
    }
    std::array<std::byte, kEventBytes> bytes{};
    const uint32_t missed = std::exchange(events_missed_, false) ? kEventsMissed : 0;
    store_le(&bytes[0], event.event | missed);
    // LUN 0 as REPORT LUNS has it, with zeroes: drivers take the address of an event for a number,
    // and that of requests (address_of) would be another unit, 16384, to them.
    bytes[4] = std::byte{1};
    bytes[5] = std::byte{event.target};
    store_le(&bytes[12], event.reason);
    const size_t copied = copy_to(chain->writable(), bytes);
    queues_.push(kEventQueue, std::move(*chain), static_cast<uint32_t>(copied));
  }
}

// Gives up what has not reached a medium; the rest is waited for.
void VirtioScsi::stop() {
  stopping_ = true;
  active_ = false;
  for (Slot& slot : slots_) {
    if (slot.chain && targets_[slot.request.lun[1]].lun->withdraw(slot)) answer(slot, kScsiReset);
  }
  tasks_.remove_if([this](TaskRequest& request) { return finish_if_done(request); });
  events_.clear();
  events_missed_ = false;
  if (in_flight_ == 0) idle_.release();
}

void VirtioScsi::reset() {
  bool was_active = false;
  thread_.run([&] {
    was_active = active_;
    if (active_) stop();
  });
  if (!was_active) return;
  thread_.wait_for(idle_);
  queues_.reset([this] {
    for (const Target& target : targets_) {
      if (target.lun != nullptr) target.lun->reset();
    }
    hotplug_told_ = changes_told_ = false;
  });
  sense_size_ = kDefaultSenseSize;
  cdb_size_ = kDefaultCdbSize;
}

}  // namespace plumb
