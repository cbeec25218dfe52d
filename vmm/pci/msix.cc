#include "vmm/pci/msix.h"

#include <algorithm>

#include "base/endian.h"
#include "base/file.h"
#include "base/log.h"

namespace plumb {

MsixTable::MsixTable(EventRouter& router, uint16_t vectors) : router_(router), entries_(vectors) {}

void MsixTable::read_table(uint64_t offset, std::span<std::byte> data) const {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    if (at >= table_bytes()) {
      data[i] = std::byte{0};
      continue;
    }
    const uint32_t word = entries_[at / kEntryBytes].words[at % kEntryBytes / 4];
    data[i] = static_cast<std::byte>(word >> (8 * (at % 4)));
  }
}

void MsixTable::write_table(uint64_t offset, std::span<const std::byte> data) {
  if ((data.size() != 4 && data.size() != 8) || offset % data.size() != 0 ||
      offset + data.size() > table_bytes()) {
    return;
  }
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[offset / kEntryBytes];
  for (size_t i = 0; i < data.size(); i += 4) {
    const uint64_t word = (offset + i) % kEntryBytes / 4;
    entry.words[word] = load_le<uint32_t>(&data[i]);
  }
  entry.words[3] &= kEntryMasked;
  update(entry);
}

void MsixTable::read_pending(uint64_t offset, std::span<std::byte> data) const {
  for (size_t i = 0; i < data.size(); ++i) {
    unsigned bits = 0;
    for (size_t bit = 0; bit < 8; ++bit) {
      const uint64_t vector = (offset + i) * 8 + bit;
      if (vector < entries_.size() && (entries_[vector].state.load() & kPending) != 0) {
        bits |= 1U << bit;
      }
    }
    data[i] = static_cast<std::byte>(bits);
  }
}

void MsixTable::set_control(uint16_t control) {
  const std::lock_guard lock(mutex_);
  if (((control ^ control_) & (kMsixEnable | kMsixMaskAll)) == 0) return;
  control_ = control;
  for (Entry& entry : entries_) update(entry);
}

void MsixTable::release_routes() {
  const std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) {
    entry.state.store(kMasked);
    if (entry.route) router_.remove_msi(*entry.route, entry.fd.get());
    entry.route.reset();
  }
}

// mutex_ is held.
void MsixTable::update(Entry& entry) {
  const bool on = (control_ & kMsixEnable) != 0;
  const bool open = on && (control_ & kMsixMaskAll) == 0 && (entry.words[3] & kEntryMasked) == 0;
  if (!on) {
    entry.state.store(kMasked);
    return;
  }
  if (!open || !route(entry)) {
    entry.state.fetch_or(kMasked | kRemember);
    return;
  }
  const uint8_t before = entry.state.exchange(kRemember);
  if ((before & kPending) != 0) signal_eventfd(entry.fd.get());
}

// Makes the vector's eventfd send what the table says. False when the host refuses.
bool MsixTable::route(Entry& entry) {
  const MsiMessage message{.address = entry.words[0] | static_cast<uint64_t>(entry.words[1]) << 32U,
                           .data = entry.words[2]};
  if (entry.route && entry.routed == message) return true;
  Result<> done;
  if (entry.route) {
    done = router_.change_msi(*entry.route, message);
  } else {
    if (!entry.fd) {
      Result<UniqueFd> fd = make_eventfd();
      if (!fd) {
        log::warning("an interrupt is lost: {}", fd.error().message);
        return false;
      }
      entry.fd = std::move(fd).value();
    }
    Result<uint32_t> added = router_.add_msi(entry.fd.get(), message);
    if (added) {
      entry.route = *added;
    } else {
      done = std::move(added).error();
    }
  }
  if (!done) {
    log::warning("an interrupt is lost: {}", done.error().message);
    return false;
  }
  entry.routed = message;
  return true;
}

void MsixTable::signal(uint16_t vector) {
  if (vector >= entries_.size()) return;
  Entry& entry = entries_[vector];
  uint8_t state = entry.state.load();
  while (true) {
    if ((state & kMasked) == 0) {
      signal_eventfd(entry.fd.get());
      return;
    }
    if ((state & kRemember) == 0) return;
    if (entry.state.compare_exchange_weak(state, static_cast<uint8_t>(state | kPending))) return;
  }
}

}  // namespace plumb
