#include "vmm/virtio/blk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/endian.h"
#include "base/log.h"

namespace plumb {
namespace {

// Section 5.2.3.
constexpr uint64_t kFeatureSegMax = 1ULL << 2U;
constexpr uint64_t kFeatureReadOnly = 1ULL << 5U;
constexpr uint64_t kFeatureBlkSize = 1ULL << 6U;
constexpr uint64_t kFeatureFlush = 1ULL << 9U;
constexpr uint64_t kFeatureTopology = 1ULL << 10U;
constexpr uint64_t kFeatureConfigWce = 1ULL << 11U;
constexpr uint64_t kFeatureMultiQueue = 1ULL << 12U;
constexpr uint64_t kFeatureDiscard = 1ULL << 13U;
constexpr uint64_t kFeatureWriteZeroes = 1ULL << 14U;

// Section 5.2.4: where the fields of the configuration space are.
constexpr size_t kConfigCapacity = 0;
constexpr size_t kConfigSegMax = 12;
constexpr size_t kConfigBlkSize = 20;
constexpr size_t kConfigPhysicalExponent = 24;
constexpr size_t kConfigMinIo = 26;
constexpr size_t kConfigOptIo = 28;
constexpr size_t kConfigWriteback = 32;
constexpr size_t kConfigNumQueues = 34;
constexpr size_t kConfigMaxDiscardSectors = 36;
constexpr size_t kConfigMaxDiscardSeg = 40;
constexpr size_t kConfigDiscardAlignment = 44;
constexpr size_t kConfigMaxZeroesSectors = 48;
constexpr size_t kConfigMaxZeroesSeg = 52;
constexpr size_t kConfigZeroesMayUnmap = 56;
constexpr size_t kConfigBytes = 60;

uint64_t offered_features(const BlockInfo& info, uint16_t queues) {
  uint64_t features = kVirtioFVersion1 | kVirtioFIndirectDesc | kVirtioFEventIdx | kFeatureSegMax |
                      kFeatureBlkSize | kFeatureTopology | kFeatureFlush | kFeatureConfigWce;
  if (queues > 1) features |= kFeatureMultiQueue;
  if (info.read_only) features |= kFeatureReadOnly;
  if (info.max_discard_bytes > 0) features |= kFeatureDiscard;
  if (info.max_write_zeroes_bytes > 0) features |= kFeatureWriteZeroes;
  return features;
}

uint8_t initial_writeback(const Disk& disk) {
  return disk.config().cache == CacheMode::kWriteback ? 1 : 0;
}

uint32_t sectors(uint64_t bytes) { return static_cast<uint32_t>(bytes / kBlkSectorBytes); }

}  // namespace

// A request at the disk. It lives as long as its queue.
struct VirtioBlk::Slot : BlockRequest {
  VirtioBlk* device = nullptr;
  Queue* queue = nullptr;
  std::optional<VirtqueueChain> chain;
  BlkRequest parsed;
  Slot* next_free = nullptr;
};

struct VirtioBlk::Queue {
  uint16_t index = 0;
  int kick_fd = -1;
  std::unique_ptr<Virtqueue> ring;
  bool broken = false;
  bool starved = false;  // chains may wait in the ring for a free slot
  bool kicks_asked = false;
  std::vector<Slot> slots;  // no more than the ring has entries
  Slot* free = nullptr;
  IoOp again;  // goes on with the ring in the next turn
  bool again_asked = false;
  VirtioBlk* device = nullptr;
};

VirtioBlk::VirtioBlk(Disk& disk, uint16_t queues)
    : disk_(disk),
      features_(offered_features(disk.info(), queues)),
      queue_sizes_(queues, kQueueSize),
      writeback_(initial_writeback(disk)) {
  ENSURE(queues >= 1 && queues <= kMaxQueues);
  disk_.thread().run([this] {
    size_bytes_ = disk_.info().size_bytes;
    disk_.on_resize([this] {
      size_bytes_ = disk_.info().size_bytes;
      if (interrupt_ != nullptr) interrupt_->signal_config();
    });
  });
}

VirtioBlk::~VirtioBlk() {
  reset();
  disk_.thread().run([this] { disk_.on_resize(nullptr); });
}

void VirtioBlk::read_config(uint32_t offset, std::span<std::byte> data) {
  const BlockInfo& info = disk_.info();
  std::array<std::byte, kConfigBytes> config{};
  const auto at = [&config](size_t field) { return config.data() + field; };
  const uint32_t block = info.logical_block_size;
  store_le<uint64_t>(at(kConfigCapacity), size_bytes_ / kBlkSectorBytes);
  store_le<uint32_t>(at(kConfigSegMax), kSegMax);
  store_le<uint32_t>(at(kConfigBlkSize), block);
  *at(kConfigPhysicalExponent) =
      static_cast<std::byte>(std::countr_zero(info.physical_block_size / block));
  store_le<uint16_t>(at(kConfigMinIo), static_cast<uint16_t>(info.physical_block_size / block));
  store_le<uint32_t>(at(kConfigOptIo), info.optimal_io_size / block);
  *at(kConfigWriteback) = std::byte{writeback_.load()};
  store_le<uint16_t>(at(kConfigNumQueues), static_cast<uint16_t>(queue_sizes_.size()));
  store_le<uint32_t>(at(kConfigMaxDiscardSectors), sectors(info.max_discard_bytes));
  store_le<uint32_t>(at(kConfigMaxDiscardSeg), info.max_discard_bytes > 0 ? 1 : 0);
  store_le<uint32_t>(at(kConfigDiscardAlignment), sectors(info.discard_granularity));
  store_le<uint32_t>(at(kConfigMaxZeroesSectors), sectors(info.max_write_zeroes_bytes));
  store_le<uint32_t>(at(kConfigMaxZeroesSeg), info.max_write_zeroes_bytes > 0 ? 1 : 0);
  *at(kConfigZeroesMayUnmap) = std::byte{info.max_write_zeroes_bytes > 0};
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t field = uint64_t{offset} + i;
    data[i] = field < config.size() ? config[field] : std::byte{0};
  }
}

void VirtioBlk::write_config(uint32_t offset, std::span<const std::byte> data) {
  if (offset > kConfigWriteback || kConfigWriteback - offset >= data.size()) return;
  const std::byte value = data[kConfigWriteback - offset];
  writeback_ = value == std::byte{0} ? 0 : 1;
}

// When a completed write must be on the medium (section 5.2.6.2): always, but for a driver that
// knows that there is a cache to flush. A writethrough disk decides that by itself.
bool VirtioBlk::writes_are_durable() const {
  if ((negotiated_ & kFeatureConfigWce) != 0) return writeback_ == 0;
  return (negotiated_ & kFeatureFlush) == 0;
}

Result<> VirtioBlk::activate(const VirtioActivation& activation) {
  std::vector<std::unique_ptr<Queue>> queues;
  for (size_t i = 0; i < activation.queues.size() && i < queue_sizes_.size(); ++i) {
    const VirtioQueueSetup& setup = activation.queues[i];
    if (!setup.enabled) continue;
    if (setup.size > kQueueSize) {
      return failed("queue {} of disk {} has {} entries, more than offered", i, disk_.config().id,
                    setup.size);
    }
    auto queue = std::make_unique<Queue>();
    queue->index = static_cast<uint16_t>(i);
    queue->kick_fd = setup.kick_fd;
    queue->device = this;
    queue->ring =
        TRY(Virtqueue::create(setup, activation.features, *activation.memory, kSegMax + 2));
    queue->slots = std::vector<Slot>(std::min(setup.size, kSlotsPerQueue));
    for (Slot& slot : queue->slots) {
      slot.device = this;
      slot.queue = queue.get();
      slot.done = finished;
      slot.next_free = std::exchange(queue->free, &slot);
    }
    queue->again.owner = queue.get();
    queue->again.done = [](IoOp& op) {
      auto& self = *static_cast<Queue*>(op.owner);
      self.again_asked = false;
      self.device->serve(self);
    };
    queues.push_back(std::move(queue));
  }
  bool active = false;
  // Section 5.2.5.2: who cannot flush starts without a cache.
  const bool wce_without_flush =
      (activation.features & (kFeatureConfigWce | kFeatureFlush)) == kFeatureConfigWce;
  if (wce_without_flush) writeback_ = 0;
  disk_.thread().run([&] {
    active = !queues_.empty();
    if (active) return;
    queues_ = std::move(queues);
    negotiated_ = activation.features;
    interrupt_ = activation.interrupt;
    take_over();
  });
  if (active) return failed("disk {} is active already", disk_.config().id);
  return {};
}

void VirtioBlk::take_over() {
  stopping_ = false;
  disk_.thread().add_poller(*this);
  for (const auto& queue : queues_) {
    Queue& served = *queue;
    disk_.thread().watch_signal(served.kick_fd, [this, &served] { serve(served); });
    // Kicks from before the watch may be gone.
    serve(served);
  }
}

void VirtioBlk::reset() {
  bool active = false;
  disk_.thread().run([&] {
    active = !queues_.empty();
    if (active) stop();
  });
  if (active) disk_.thread().wait_for(idle_);
  // In a later turn: until then the loop may still call batch_end() and Queue::again.
  disk_.thread().run([this] {
    queues_.clear();
    interrupt_ = nullptr;
  });
  writeback_ = initial_writeback(disk_);
}

void VirtioBlk::stop() {
  stopping_ = true;
  disk_.thread().remove_poller(*this);
  for (const auto& queue : queues_) {
    if (!queue->broken) disk_.thread().unwatch(queue->kick_fd);
    for (Slot& slot : queue->slots) {
      // What is at the device and fails must come back, though the disk stops for errors.
      slot.unwanted = true;
      if (slot.chain && disk_.withdraw(slot)) {
        queue->ring->abandon(*std::exchange(slot.chain, std::nullopt));
        --in_flight_;
      }
    }
  }
  if (in_flight_ == 0) idle_.release();
}

// Takes the chains that are there; returns whether there was one.
bool VirtioBlk::serve(Queue& queue) {
  if (stopping_ || queue.broken) return false;
  if (std::exchange(queue.kicks_asked, false)) queue.ring->disable_kicks();
  // A driver that adds chains as fast as we take them must not keep the loop for ever.
  unsigned left = 2U * queue.ring->size();
  const unsigned all = left;
  while (serve_one(queue)) {
    if (--left > 0) continue;
    if (!std::exchange(queue.again_asked, true)) disk_.thread().defer(queue.again);
    break;
  }
  return left < all;
}

bool VirtioBlk::poll() {
  bool any = false;
  for (const auto& queue : queues_) {
    if (queue->ring->has_available() && !queue->starved) any |= serve(*queue);
  }
  return any;
}

void VirtioBlk::ask_for_wakeup() {
  for (const auto& queue : queues_) {
    // Until a slot is free, the queue's chains are not looked at: batch_end() goes on with them.
    while (!queue->broken && !queue->starved && !queue->kicks_asked && !queue->again_asked) {
      queue->kicks_asked = true;
      if (queue->ring->enable_kicks()) serve(*queue);
    }
  }
}

// Takes one chain. False when there is none, or no slot for it, or the ring is broken.
bool VirtioBlk::serve_one(Queue& queue) {
  queue.starved = queue.free == nullptr;
  if (queue.starved) return false;
  Result<std::optional<VirtqueueChain>> popped = queue.ring->pop();
  if (!popped.ok()) {
    broken(queue, popped.error());
    return false;
  }
  std::optional<VirtqueueChain>& chain = *popped;
  if (!chain.has_value()) return false;
  act(queue, std::move(*chain));
  return true;
}

void VirtioBlk::act(Queue& queue, VirtqueueChain chain) {
  const BlkRequest request = parse_blk_request(chain.readable(), chain.writable(), disk_.info());
  switch (request.action) {
    case BlkAction::kReject:
      push(queue, std::move(chain), request, request.verdict);
      return;
    case BlkAction::kGetId:
      answer_id(request);
      push(queue, std::move(chain), request, kBlkOk);
      return;
    case BlkAction::kTransfer:
    case BlkAction::kRange:
    case BlkAction::kFlush:
      break;
  }
  Slot& slot = *queue.free;
  queue.free = slot.next_free;
  slot.chain = std::move(chain);
  start(slot, request);
}

void VirtioBlk::start(Slot& slot, const BlkRequest& request) {
  slot.parsed = request;
  slot.op = request.op;
  slot.durable = writes_are_durable();
  slot.may_unmap = request.may_unmap;
  slot.offset = request.offset;
  slot.length = request.length;
  slot.iov = request.data.data();
  slot.iov_count = static_cast<uint32_t>(request.data.size());
  ++in_flight_;
  disk_.submit(slot);
}

// The serial, padded with NULs, over however many buffers the driver gave.
void VirtioBlk::answer_id(const BlkRequest& request) const {
  std::array<char, kBlkIdBytes> id{};
  disk_.config().serial.copy(id.data(), id.size());
  const char* from = id.data();
  for (const iovec& part : request.data) {
    std::memcpy(part.iov_base, from, part.iov_len);
    from += part.iov_len;
  }
}

void VirtioBlk::finished(BlockRequest& request) {
  Slot& slot = static_cast<Slot&>(request);
  slot.device->complete(slot);
}

void VirtioBlk::complete(Slot& slot) {
  Queue& queue = *slot.queue;
  VirtqueueChain chain = std::move(*std::exchange(slot.chain, std::nullopt));
  if (stopping_) {
    queue.ring->abandon(std::move(chain));
  } else {
    const bool unsupported = slot.error == EOPNOTSUPP;
    const uint8_t failure = unsupported ? kBlkUnsupported : kBlkIoError;
    push(queue, std::move(chain), slot.parsed, slot.error == 0 ? kBlkOk : failure);
  }
  slot.next_free = std::exchange(queue.free, &slot);
  --in_flight_;
  if (stopping_ && in_flight_ == 0) idle_.release();
}

// Answers a chain. The used length counts from the first writable byte on: after a failure only a
// status byte that stands alone is known to be written.
void VirtioBlk::push(Queue& queue, VirtqueueChain chain, const BlkRequest& request,
                     uint8_t status) {
  uint64_t written = 0;
  if (request.status != nullptr) {
    *request.status = std::byte{status};
    if (status == kBlkOk || request.writable_bytes == 1) written = request.writable_bytes;
  }
  queue.ring->push(std::move(chain),
                   static_cast<uint32_t>(std::min<uint64_t>(written, UINT32_MAX)));
  disk_.thread().call_at_batch_end(*this);
}

void VirtioBlk::broken(Queue& queue, const Error& error) {
  log::warning("disk {}: the guest broke queue {}: {}", disk_.config().id, queue.index,
               error.message);
  queue.broken = true;
  disk_.thread().unwatch(queue.kick_fd);
  interrupt_->needs_reset();
}

void VirtioBlk::batch_end() {
  for (const auto& queue : queues_) {
    if (queue->starved && queue->free != nullptr) serve(*queue);
    if (!stopping_ && queue->ring->publish()) interrupt_->signal_queue(queue->index);
  }
}

}  // namespace plumb
