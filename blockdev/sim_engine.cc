#include "blockdev/sim_engine.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/file.h"

namespace plumb {
namespace {

constexpr uint64_t kMaskBlocks = 64;

uint64_t total_bytes(const IoOp& op) {
  if (op.kind == IoOpKind::kSync) return 0;
  if (op.kind != IoOpKind::kRead && op.kind != IoOpKind::kWrite) return op.length;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) sum += op.iov[i].iov_len;
  return sum;
}

// Copies `bytes` between `flat` and the operation's buffers, from `skip` bytes into them on.
template <bool kToBuffers, typename Flat>
void copy(const IoOp& op, uint64_t skip, Flat* flat, uint64_t bytes) {
  for (uint32_t i = 0; bytes > 0; ++i) {
    const iovec& part = op.iov[i];
    if (skip >= part.iov_len) {
      skip -= part.iov_len;
      continue;
    }
    const uint64_t count = std::min<uint64_t>(bytes, part.iov_len - skip);
    std::byte* buffer = static_cast<std::byte*>(part.iov_base) + skip;
    if constexpr (kToBuffers) {
      std::memcpy(buffer, flat, count);
    } else {
      std::memcpy(flat, buffer, count);
    }
    flat += count;
    bytes -= count;
    skip = 0;
  }
}

}  // namespace

SimEngine::SimEngine(Config config) : config_(std::move(config)), random_(config_.seed) {
  flights_.reserve(kFileDeviceOps);
}

UniqueFd SimEngine::attach(SimDevice& device) {
  UniqueFd fd = make_eventfd().value();
  devices_.push_back({.fd = fd.get(), .device = &device});
  scratch_.resize(std::max<size_t>(scratch_.size(), device.block_size()));
  return fd;
}

IoFile SimEngine::add_file(int fd) {
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i].fd == fd) return {.fd = fd, .slot = static_cast<int>(i)};
  }
  ENSURE(false);
}

void SimEngine::remove_file(IoFile file) {
  ENSURE(in_flight(static_cast<uint32_t>(file.slot)) == 0);
  devices_[static_cast<size_t>(file.slot)].fd = -1;
}

void SimEngine::watch(uint32_t token, int fd, Trigger trigger) {
  ENSURE(token < kWatches && watches_[token].fd < 0 && trigger == Trigger::kSignal);
  watches_[token] = {.fd = fd, .signalled = false};
  watch_end_ = std::max(watch_end_, token + 1);
}

void SimEngine::unwatch(uint32_t token) { watches_[token] = {}; }

void SimEngine::signal(int fd) {
  for (uint32_t token = 0; token < watch_end_; ++token) {
    if (watches_[token].fd == fd) watches_[token].signalled = any_signal_ = true;
  }
}

void SimEngine::take_signals(IoEvents& events) {
  if (!std::exchange(any_signal_, false)) return;
  for (uint32_t token = 0; token < watch_end_; ++token) {
    if (std::exchange(watches_[token].signalled, false)) events.ready.push_back(token);
  }
}

uint32_t SimEngine::in_flight(uint32_t device) const {
  return static_cast<uint32_t>(
      std::count_if(flights_.begin(), flights_.end(),
                    [device](const Flight& flight) { return flight.device == device; }));
}

bool SimEngine::ready() const {
  if (any_signal_) return true;
  return !config_.choose && !flights_.empty() && flights_[next_due()].due_ns <= now_ns_;
}

void SimEngine::submit(IoOp& op) {
  Flight flight;
  flight.op = &op;
  flight.device = static_cast<uint32_t>(op.file.slot);
  flight.mark = kInFlight + ++submitted_;
  flight.flushes = completed_;
  flight.bytes = total_bytes(op);
  if (op.kind != IoOpKind::kSync) {
    const uint32_t block_size = devices_[flight.device].device->block_size();
    flight.first = static_cast<uint32_t>(op.offset / block_size);
    flight.blocks = static_cast<uint32_t>(flight.bytes / block_size);
  }
  flight.refused = refusal(flight);
  int64_t took_ns = 1 + random_.below(static_cast<uint32_t>(2 * config_.latency_ns));
  if (flight.refused == 0) draw_fault(flight);
  if (random_.chance(config_.rates[static_cast<size_t>(op.kind)].slow)) took_ns *= 100;
  const int64_t due_ns = now_ns_ + took_ns;
  flight.due_ns = (due_ns + config_.quantum_ns - 1) / config_.quantum_ns * config_.quantum_ns;
  flights_.push_back(flight);
  Flight inside = flight;
  clip(inside);
  tell(SimStep::What::kSubmitted, inside, inside.first, inside.blocks);
}

// What the kernel would refuse before it looks at the device: 0 or a negative errno.
int64_t SimEngine::refusal(const Flight& flight) const {
  const IoOp& op = *flight.op;
  const SimDevice& device = *devices_[flight.device].device;
  const SimDevice::Config& facts = device.config();
  if (op.kind == IoOpKind::kSync) return 0;
  if (op.offset % facts.block_size != 0 || flight.bytes % facts.block_size != 0) return -EINVAL;
  if (op.kind == IoOpKind::kRead || op.kind == IoOpKind::kWrite) {
    uintptr_t addresses = 0;
    size_t lengths = 0;
    for (uint32_t i = 0; i < op.iov_count; ++i) {
      addresses |= reinterpret_cast<uintptr_t>(op.iov[i].iov_base);
      lengths |= op.iov[i].iov_len;
    }
    const bool aligned = addresses % facts.memory_alignment == 0 && lengths % facts.block_size == 0;
    return aligned ? 0 : -EINVAL;
  }
  if (op.kind == IoOpKind::kFallocate) {
    if (op.fallocate_mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) && facts.can_punch) {
      return 0;
    }
    const bool zero_range = op.fallocate_mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    return zero_range && facts.can_zero_range ? 0 : -EOPNOTSUPP;
  }
  if (!facts.block_device) return -ENOTTY;
  const uint64_t size = device.size_bytes();
  return op.offset <= size && op.length <= size - op.offset ? 0 : -EINVAL;
}

void SimEngine::draw_fault(Flight& flight) {
  if (!config_.rules.empty() && follow_rules(flight)) return;
  const SimRates& rates = config_.rates[static_cast<size_t>(flight.op->kind)];
  constexpr int kErrors[] = {EIO, EIO, EREMOTEIO, ENODATA, ETIMEDOUT, EBADE};
  if (random_.chance(rates.error)) {
    flight.fault = SimFault::kError;
    flight.error = kErrors[random_.below(std::size(kErrors))];
  } else if (random_.chance(rates.retry)) {
    flight.fault = SimFault::kError;
    flight.error = random_.chance(32768) ? EINTR : EAGAIN;
  } else if (random_.chance(rates.shorter)) {
    flight.fault = SimFault::kShort;
  } else if (random_.chance(rates.lost)) {
    flight.fault = SimFault::kLost;
  } else if (random_.chance(rates.misdirected)) {
    flight.fault = SimFault::kMisdirected;
  }
}

bool SimEngine::follow_rules(Flight& flight) {
  for (SimRule& rule : config_.rules) {
    const bool apart = flight.op->kind != IoOpKind::kSync &&
                       (flight.first >= uint64_t{rule.first_block} + rule.blocks ||
                        rule.first_block >= flight.first + flight.blocks);
    if (rule.kind != flight.op->kind || apart || rule.times == 0) continue;
    if (rule.skip > 0) {
      --rule.skip;
      continue;
    }
    if (rule.times != SimRule::kForEver) --rule.times;
    flight.fault = rule.fault;
    flight.error = rule.error;
    return true;
  }
  return false;
}

size_t SimEngine::next_due() const {
  size_t best = 0;
  for (size_t i = 1; i < flights_.size(); ++i) {
    const Flight& flight = flights_[i];
    const Flight& than = flights_[best];
    if (flight.due_ns < than.due_ns || (flight.due_ns == than.due_ns && flight.mark < than.mark)) {
      best = i;
    }
  }
  return best;
}

void SimEngine::wait(int64_t until_ns, IoEvents& events) {
  stuck_ = false;
  take_signals(events);
  if (config_.stir > 0 && random_.chance(config_.stir)) stir();
  const bool sleeps = events.ready.empty() && until_ns > now_ns_;
  if (config_.choose && sleeps && !flights_.empty()) {
    complete(config_.choose(flights_.size()), events);
    return;
  }
  const int64_t due_ns =
      flights_.empty() || config_.choose ? kForever : flights_[next_due()].due_ns;
  if (sleeps) {
    const int64_t next_ns = std::min(due_ns, until_ns);
    stuck_ = next_ns == kForever;
    if (!stuck_) now_ns_ = std::max(now_ns_, next_ns);
  }
  while (!config_.choose && !flights_.empty()) {
    const size_t next = next_due();
    if (flights_[next].due_ns > now_ns_) break;
    complete(next, events);
  }
}

// What a device does in its own time: a part of a write is done before the rest, a part of the
// cache is written back.
void SimEngine::stir() {
  if (!powered_) return;
  if (!devices_.empty() && random_.chance(16384)) {
    devices_[random_.below(static_cast<uint32_t>(devices_.size()))].device->write_back(random_);
  }
  if (flights_.empty() || path_lost_) return;
  Flight& flight = flights_[random_.below(static_cast<uint32_t>(flights_.size()))];
  const bool honest = flight.fault == SimFault::kNone;
  if (!writes(flight.op->kind) || flight.refused != 0 || flight.blocks == 0 || !honest) return;
  const uint32_t block =
      flight.first + random_.below(std::min<uint32_t>(flight.blocks, kMaskBlocks));
  if (!changes(flight, flight.device, block)) return;
  change(flight, block, flight.mark, false);
  flight.done |= 1ULL << (block - flight.first);
  tell(SimStep::What::kStirred, flight, block, 1);
}

void SimEngine::complete(size_t index, IoEvents& events) {
  Flight flight = flights_[index];
  flights_[index] = flights_.back();
  flights_.pop_back();
  ++completed_;
  clip(flight);
  flight.op->result = perform(flight);
  events.completed.push(*flight.op);
  tell(SimStep::What::kCompleted, flight, flight.first, flight.blocks);
}

// To what is inside the device now: its size may have changed.
void SimEngine::clip(Flight& flight) const {
  const uint32_t blocks = devices_[flight.device].device->blocks();
  flight.blocks = std::min(flight.blocks, blocks - std::min(flight.first, blocks));
}

int64_t SimEngine::perform(Flight& flight) {
  if (!powered_) return -EIO;
  if (flight.refused != 0) return flight.refused;
  if (path_lost_) return fail(flight, random_.chance(32768) ? ENOLINK : EIO);
  if (flight.fault == SimFault::kError) return fail(flight, flight.error);
  if (flight.fault != SimFault::kNone) ++faults_;
  switch (flight.op->kind) {
    case IoOpKind::kRead:
      return read(flight);
    case IoOpKind::kWrite:
      return write(flight);
    case IoOpKind::kSync:
      return sync(flight);
    default:
      return change_range(flight);
  }
}

int64_t SimEngine::fail(Flight& flight, int error) {
  ++faults_;
  if (error == EINTR || error == EAGAIN) {
    end_change(flight, 0, false);
    return -error;
  }
  if (flight.op->kind == IoOpKind::kSync) {
    devices_[flight.device].device->spoil(flight.flushes, random_);
  } else if (flight.op->kind == IoOpKind::kRead) {
    // A transfer that broke off leaves what it had got to, and that may be anything.
    const uint64_t junk = random_.next();
    if (flight.bytes > 0) copy<true>(*flight.op, 0, &junk, std::min(sizeof(junk), flight.bytes));
  } else {
    const bool some = random_.chance(32768);
    for (uint32_t i = 0; some && i < flight.blocks && i < kMaskBlocks; ++i) {
      if (!changes(flight, flight.device, flight.first + i) || random_.chance(32768)) continue;
      change(flight, flight.first + i, flight.mark, false);
      flight.done |= 1ULL << i;
    }
    end_change(flight, 0, false);
  }
  return -error;
}

int64_t SimEngine::read(const Flight& flight) {
  const SimDevice& device = *devices_[flight.device].device;
  const uint64_t size = device.size_bytes();
  uint64_t bytes = flight.op->offset < size ? std::min(flight.bytes, size - flight.op->offset) : 0;
  if (flight.fault == SimFault::kShort && bytes > 0) {
    bytes = 1 + random_.below(static_cast<uint32_t>(bytes));
  }
  if (flight.fault == SimFault::kLost) return static_cast<int64_t>(bytes);
  const uint32_t block_size = device.block_size();
  for (uint64_t done = 0; done < bytes; done += block_size) {
    copy<true>(*flight.op, done,
               device.current(flight.first + static_cast<uint32_t>(done / block_size)),
               std::min<uint64_t>(block_size, bytes - done));
  }
  return static_cast<int64_t>(bytes);
}

int64_t SimEngine::write(Flight& flight) {
  SimDevice& device = *devices_[flight.device].device;
  const IoOp& op = *flight.op;
  const uint32_t block_size = device.block_size();
  const uint64_t end = op.offset + flight.bytes;
  if (end > device.size_bytes() && !device.config().block_device) {
    const uint64_t room = uint64_t{device.config().blocks} * block_size;
    device.resize(static_cast<uint32_t>(std::min(end, room) / block_size));
  }
  if (op.offset >= device.size_bytes()) return flight.bytes == 0 ? 0 : -ENOSPC;
  uint64_t bytes = std::min(flight.bytes, device.size_bytes() - op.offset);
  flight.blocks = static_cast<uint32_t>(bytes / block_size);
  if (flight.fault == SimFault::kLost) return static_cast<int64_t>(bytes);
  if (flight.fault == SimFault::kShort) {
    bytes = 1 + random_.below(static_cast<uint32_t>(bytes));
  }
  end_change(flight, static_cast<uint32_t>(bytes / block_size), op.dsync);
  return static_cast<int64_t>(bytes);
}

int64_t SimEngine::change_range(Flight& flight) {
  if (flight.fault == SimFault::kLost) return 0;
  if (flight.op->kind == IoOpKind::kBlkDiscard) {
    // A device may ignore any part of a discard.
    for (uint32_t i = 0; i < flight.blocks && i < kMaskBlocks; ++i) {
      if (random_.chance(32768)) flight.done |= 1ULL << i;
    }
  }
  end_change(flight, flight.blocks, false);
  return 0;
}

int64_t SimEngine::sync(const Flight& flight) {
  if (flight.fault != SimFault::kLost) devices_[flight.device].device->flush_all(flight.flushes);
  return 0;
}

bool SimEngine::changes(const Flight& flight, uint32_t device, uint32_t block) const {
  if (!writes(flight.op->kind) || flight.refused != 0 || flight.device != device) return false;
  if (block < flight.first || block - flight.first >= flight.blocks) return false;
  if (block >= devices_[device].device->blocks()) return false;
  const uint32_t index = block - flight.first;
  return index >= kMaskBlocks || (flight.done >> index & 1) == 0;
}

const std::byte* SimEngine::bytes_of(const Flight& flight, uint32_t block) {
  const uint32_t block_size = devices_[flight.device].device->block_size();
  if (flight.op->kind == IoOpKind::kWrite) {
    copy<false>(*flight.op, uint64_t{block - flight.first} * block_size, scratch_.data(),
                block_size);
  } else {
    std::memset(scratch_.data(), 0, block_size);
  }
  return scratch_.data();
}

// Does the flight's work on one block.
void SimEngine::change(Flight& flight, uint32_t block, uint64_t mark, bool durable) {
  SimDevice& device = *devices_[flight.device].device;
  uint32_t target = block;
  if (flight.fault == SimFault::kMisdirected) target = (block + 1) % device.blocks();
  std::byte* to = durable ? device.write_medium(target) : device.write_cache(target, mark);
  if (flight.op->kind == IoOpKind::kWrite) {
    const uint64_t skip = uint64_t{block - flight.first} * device.block_size();
    copy<false>(*flight.op, skip, to, device.block_size());
  } else {
    std::memset(to, 0, device.block_size());
  }
}

// The flight ends, and with it the change of its first `blocks` blocks; what it did before to any
// of them is no longer in flight.
void SimEngine::end_change(Flight& flight, uint32_t blocks, bool durable) {
  SimDevice& device = *devices_[flight.device].device;
  for (uint32_t i = 0; i < flight.blocks; ++i) {
    const uint32_t block = flight.first + i;
    if (i < kMaskBlocks && (flight.done >> i & 1) != 0) {
      device.change_mark(block, flight.mark, completed_);
      if (durable && i < blocks) device.flush(block, completed_);
    } else if (i < blocks) {
      change(flight, block, completed_, durable);
    }
  }
}

void SimEngine::lose_power() {
  for (Flight& flight : flights_) {
    if (path_lost_) break;
    const uint32_t some = random_.below(3) * 32768;  // nothing, about a half, or all of it
    for (uint32_t i = 0; i < flight.blocks; ++i) {
      const uint32_t block = flight.first + i;
      if (changes(flight, flight.device, block) && random_.chance(some)) {
        change(flight, block, flight.mark, false);
      }
    }
  }
  for (const File& file : devices_) file.device->lose_power(random_);
  powered_ = false;
}

void SimEngine::tell(SimStep::What what, const Flight& flight, uint32_t first, uint32_t blocks) {
  if (config_.observer == nullptr || !powered_) return;
  config_.observer->stepped({.what = what,
                             .op = flight.op,
                             .device = flight.device,
                             .first_block = first,
                             .blocks = blocks});
}

}  // namespace plumb
