#include "tests/simulation/guest_driver.h"

#include <fmt/core.h>

#include <algorithm>

namespace plumb::simulation {
namespace {

// Section 5.2.6.
constexpr uint32_t kTypeIn = 0;
constexpr uint32_t kTypeOut = 1;
constexpr uint32_t kTypeFlush = 4;
constexpr uint32_t kTypeGetId = 8;
constexpr uint32_t kTypeDiscard = 11;
constexpr uint32_t kTypeWriteZeroes = 13;
constexpr uint32_t kTypeSecureErase = 14;
constexpr uint8_t kNotWritten = 0xff;
constexpr uint32_t kConfigWriteback = 32;

constexpr uint32_t kPage = 4096;
constexpr unsigned char kPoison = 0xa5;     // of buffers that a read is to fill
constexpr unsigned char kUntouched = 0x5a;  // of buffers after a reset

struct Header {
  uint32_t type = 0;
  uint32_t reserved = 0;
  uint64_t sector = 0;
};
struct Range {
  uint64_t sector = 0;
  uint32_t sectors = 0;
  uint32_t flags = 0;
};

uint32_t type_of(BlockOp op) {
  switch (op) {
    case BlockOp::kRead:
      return kTypeIn;
    case BlockOp::kWrite:
      return kTypeOut;
    case BlockOp::kFlush:
      return kTypeFlush;
    case BlockOp::kDiscard:
      return kTypeDiscard;
    case BlockOp::kWriteZeroes:
      return kTypeWriteZeroes;
  }
  return kTypeSecureErase;
}

}  // namespace

GuestDriver::GuestDriver(const Config& config, FakeGuest& guest, Disk& disk, uint32_t number,
                         SimEngine& engine, Checker& checker)
    : config_(config),
      guest_(guest),
      disk_(disk),
      number_(number),
      block_size_(disk.info().logical_block_size),
      engine_(engine),
      checker_(checker),
      random_(config.seed),
      device_(disk, config.queues),
      driver_(guest, device_),
      slots_(config.depth) {
  ENSURE(config.depth * kChainParts <= config.queue_size);
  guest_.take_back_all();
  for (uint32_t i = 0; i < config.depth; ++i) {
    // A page in front for the header, one behind for the status and for odd places.
    slots_[i].memory = guest_.allocate(2 * kPage + config.max_blocks * block_size_, kPage);
    free_.push_back(i);
  }
}

void GuestDriver::start() {
  const Result<> started = driver_.start_with(
      config_.features, std::vector<uint16_t>(config_.queues, config_.queue_size));
  ENSURE(started.ok());
  rings_.assign(config_.queues, {});
  for (Ring& ring : rings_) ring.slots.assign(config_.queue_size, kNoSlot);
  // Section 5.2.5.2: what the mode is at first.
  const bool can_flush = (driver_.features() & kBlkFlush) != 0;
  writeback_ = disk_.config().cache == CacheMode::kWriteback && can_flush;
  const bool told = driver_.config<uint8_t>(kConfigWriteback) != 0;
  if (can_set_writeback() && told != writeback_) {
    checker_.violate("I1", number_, "the cache's mode after activation is not what it must be");
  }
}

// Whether a write that ends while nothing changes must be on the medium (section 5.2.6.2).
bool GuestDriver::durable_now() const {
  if (disk_.config().cache == CacheMode::kWritethrough) return true;
  if (can_set_writeback()) return !writeback_;
  return (driver_.features() & kBlkFlush) == 0;
}

void GuestDriver::set_writeback(bool writeback) {
  const std::byte value{writeback};
  device_.write_config(kConfigWriteback, {&value, 1});
  writeback_ = writeback;
  if (durable_now()) return;
  // Stable is only what the mode stayed for, from the first to the last.
  for (Slot& slot : slots_) slot.request.durable = false;
}

GuestDriver::Slot& GuestDriver::take_slot(uint16_t queue) {
  Slot& slot = slots_[free_.back()];
  free_.pop_back();
  slot.queue = queue;
  slot.busy = true;
  slot.checked = false;
  slot.recovering = false;
  slot.expected = kBlkOk;
  slot.request = {};
  slot.request.disk = number_;
  ++outstanding_;
  return slot;
}

void GuestDriver::ask(const Ask& ask) {
  Slot& slot = take_slot(ask.queue);
  slot.checked = true;
  fill_in(slot, ask);
}

void GuestDriver::ask_survivors(uint32_t first, uint32_t blocks) {
  Slot& slot = take_slot(0);
  slot.recovering = true;
  fill_in(slot, {.op = BlockOp::kRead, .first = first, .blocks = blocks});
}

void GuestDriver::fill_in(Slot& slot, const Ask& ask) {
  GuestRequest& request = slot.request;
  request.op = ask.op;
  request.first = ask.first;
  request.blocks = ask.blocks;
  request.durable = durable_now();
  if (slot.checked) checker_.issued(request);
  const uint64_t sectors = block_size_ / kBlkSectorBytes;
  const uint32_t bytes = ask.blocks * block_size_;
  const bool odd = config_.odd_buffers && random_.chance(16384);
  slot.data = slot.memory.host + kPage + (odd ? random_.below(64) : 0);
  switch (ask.op) {
    case BlockOp::kRead:
      std::memset(slot.data, kPoison, bytes);
      send(slot, kTypeIn, ask.first * sectors, 0, bytes);
      return;
    case BlockOp::kWrite:
      for (uint32_t i = 0; i < ask.blocks; ++i) {
        fill_block(slot.data + size_t{i} * block_size_, block_size_,
                   value_for(request.number, number_, ask.first + i));
      }
      send(slot, kTypeOut, ask.first * sectors, bytes, 0);
      return;
    case BlockOp::kFlush:
      send(slot, kTypeFlush, 0, 0, 0);
      return;
    case BlockOp::kDiscard:
    case BlockOp::kWriteZeroes: {
      const Range range{.sector = ask.first * sectors,
                        .sectors = static_cast<uint32_t>(ask.blocks * sectors),
                        .flags = ask.unmap ? 1U : 0U};
      std::memcpy(slot.data, &range, sizeof(range));
      send(slot, type_of(ask.op), 0, sizeof(range), 0);
      return;
    }
  }
}

void GuestDriver::ask_something_else() {
  Slot& slot = take_slot(static_cast<uint16_t>(random_.below(config_.queues)));
  slot.data = slot.memory.host + kPage;
  const uint64_t end = disk_.info().size_bytes / kBlkSectorBytes;
  slot.expected = kBlkIoError;
  switch (random_.below(7)) {
    case 0:  // behind the end
      return send(slot, kTypeIn, end + random_.below(100), 0, block_size_);
    case 1:  // across it
      return send(slot, kTypeOut, end - block_size_ / kBlkSectorBytes, 2 * block_size_, 0);
    case 2:  // a sum that overflows
      return send(slot, kTypeOut, UINT64_MAX - random_.below(4), block_size_, 0);
    case 3:  // not whole sectors
      return send(slot, kTypeIn, 0, 0, block_size_ - 1);
    case 4: {
      const Range range{.sector = end - 1, .sectors = UINT32_MAX, .flags = 0};
      std::memcpy(slot.data, &range, sizeof(range));
      return send(slot, kTypeWriteZeroes, 0, sizeof(range), 0);
    }
    case 5:
      slot.expected = kBlkUnsupported;
      return send(slot, kTypeSecureErase, 0, 0, 0);
    default:
      slot.expected = kBlkOk;
      return send(slot, kTypeGetId, 0, 0, kBlkIdBytes);
  }
}

// Header, data and status lie one behind the other; where the buffers are cut is anyone's choice.
void GuestDriver::send(Slot& slot, uint32_t type, uint64_t sector, uint32_t out_bytes,
                       uint32_t in_bytes) {
  slot.type = type;
  const Header header{.type = type, .reserved = 0, .sector = sector};
  const auto data = static_cast<uint32_t>(slot.data - slot.memory.host);
  std::memcpy(slot.data - kHeaderBytes, &header, sizeof(header));
  slot.status = slot.data + out_bytes + in_bytes;
  *slot.status = std::byte{kNotWritten};
  slot.writable = in_bytes + 1;

  FakeQueue& queue = driver_.queue(slot.queue);
  ChainBuilder chain = queue.chain();
  if ((driver_.features() & kVirtioFIndirectDesc) != 0 && random_.chance(32768)) chain.indirect();
  const bool odd = config_.odd_buffers && random_.chance(8192);
  add_parts(chain, slot, {data - kHeaderBytes, data + out_bytes}, data, false, odd);
  add_parts(chain, slot, {data + out_bytes, data + out_bytes + in_bytes + 1},
            data + out_bytes + in_bytes, true, odd);
  slot.head = chain.add_available();
  Ring& ring = rings_[slot.queue];
  ENSURE(ring.slots[slot.head] == kNoSlot);
  ring.slots[slot.head] = static_cast<uint32_t>(&slot - slots_.data());
}

// Adds the extent in up to four buffers: the usual way, cut at `first_cut` and between blocks; or
// anywhere.
void GuestDriver::add_parts(ChainBuilder& chain, const Slot& slot, Extent extent,
                            uint32_t first_cut, bool writable, bool odd) {
  uint32_t cuts[4];
  size_t count = 0;
  if (odd) {
    for (; count < 3; ++count)
      cuts[count] = extent.start + random_.below(extent.end - extent.start);
  } else {
    cuts[count++] = first_cut;
    // The data is in front of the cut when it is to be written, else behind it.
    const uint32_t start = writable ? extent.start : first_cut;
    const uint32_t blocks = ((writable ? first_cut : extent.end) - start) / block_size_;
    for (; count < 3 && blocks > 1 && random_.chance(32768); ++count) {
      cuts[count] = start + random_.below(blocks) * block_size_;
    }
  }
  cuts[count++] = extent.end;
  std::sort(cuts, cuts + count);
  uint32_t at = extent.start;
  for (size_t i = 0; i < count; ++i) {
    if (cuts[i] == at) continue;
    const GuestBuffer part = slot.memory.part(at, cuts[i] - at);
    at = cuts[i];
    if (writable) {
      chain.writable(part);
    } else {
      chain.readable(part);
    }
  }
}

void GuestDriver::publish() {
  const bool events = (driver_.features() & kVirtioFEventIdx) != 0;
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    FakeQueue& queue = driver_.queue(i);
    const uint16_t index = queue.available_index();
    const uint16_t before = std::exchange(rings_[i].kicked, index);
    if (index == before) continue;
    queue.publish();
    const bool wanted = events ? static_cast<uint16_t>(index - queue.avail_event() - 1) <
                                     static_cast<uint16_t>(index - before)
                               : (queue.used_flags() & 1) == 0;
    if (wanted) engine_.signal(queue.setup().kick_fd);
  }
}

void GuestDriver::collect() {
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    const unsigned interrupts = driver_.queue(i).interrupts;
    if (std::exchange(rings_[i].interrupts, interrupts) != interrupts) collect_ring(i);
  }
}

void GuestDriver::collect_ring(uint16_t index) {
  FakeQueue& queue = driver_.queue(index);
  Ring& ring = rings_[index];
  while (true) {
    const std::optional<FakeQueue::Used> used = queue.next_used();
    if (!used) {
      // Asks for the next interrupt, and looks once more, as what came between was not told.
      queue.set_used_event(ring.collected);
      if (queue.used_index() == ring.collected) return;
      continue;
    }
    ++ring.collected;
    const uint32_t slot = std::exchange(ring.slots[used->head], kNoSlot);
    if (slot == kNoSlot) {
      return checker_.violate("I8", number_,
                              fmt::format("chain {} came back and was not out", used->head));
    }
    answered(slots_[slot], used->length);
    give_back(slots_[slot]);
  }
}

void GuestDriver::answered(Slot& slot, uint32_t length) {
  const auto status = static_cast<uint8_t>(*slot.status);
  const bool ok = status == kBlkOk;
  last_failed_ = !ok;
  if (status == kNotWritten || (ok && length != slot.writable) || length > slot.writable) {
    checker_.violate("I7", number_,
                     fmt::format("a request of type {} came back with status {} and length {}",
                                 slot.type, status, length));
  }
  if (slot.recovering) {
    for (uint32_t i = 0; ok && i < slot.request.blocks; ++i) {
      checker_.survived(number_, slot.request.first + i, slot.data + size_t{i} * block_size_);
    }
  } else if (slot.checked) {
    checker_.ended(slot.request, ok, slot.data);
  } else if (status != slot.expected) {
    checker_.violate("I4", number_,
                     fmt::format("a request of type {} that must end with status {} "
                                 "ended with {}",
                                 slot.type, slot.expected, status));
  }
}

void GuestDriver::give_back(Slot& slot) {
  slot.busy = false;
  free_.push_back(static_cast<uint32_t>(&slot - slots_.data()));
  --outstanding_;
}

void GuestDriver::return_last_chain_again() {
  FakeQueue& queue = driver_.queue();
  std::byte* ring = guest_.memory().at(queue.setup().device_ring, 4 + 8U * queue.size());
  const uint16_t index = queue.used_index();
  const auto entry = [&](uint16_t at) { return ring + 4 + 8U * (at % queue.size()); };
  std::memcpy(entry(index), entry(static_cast<uint16_t>(index - 1)), 8);
  const auto next = static_cast<uint16_t>(index + 1);
  std::memcpy(ring + 2, &next, sizeof(next));
  driver_.signal_queue(0);
}

void GuestDriver::reset() {
  driver_.reset();
  checker_.was_reset(number_);
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    Ring& ring = rings_[i];
    ring.used_at_reset = driver_.queue(i).used_index();
    ring.interrupts = driver_.queue(i).interrupts;
    ring.slots.assign(config_.queue_size, kNoSlot);
  }
  for (Slot& slot : slots_) {
    slot.memory.fill(kUntouched);
    if (!slot.busy) continue;
    if (slot.checked) checker_.lost(slot.request);
    give_back(slot);
  }
}

void GuestDriver::check_untouched() {
  bool same = true;
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    same = same && rings_[i].used_at_reset == driver_.queue(i).used_index();
  }
  for (const Slot& slot : slots_) same = same && slot.memory.all(kUntouched);
  if (!same) checker_.violate("I5", number_, "memory of the guest changed after a reset");
}

}  // namespace plumb::simulation
