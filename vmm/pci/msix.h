// MsixTable: a function's message-signalled interrupts: table, pending bits, masks.
// Source: PCI 3.0, section 6.8.2.
//
// A vector's eventfd and route are made when the guest first unmasks it. Signals come from any
// thread and take no lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/event_router.h"

namespace plumb {

inline constexpr uint8_t kPciCapMsix = 0x11;
inline constexpr uint16_t kMsixEnable = 1U << 15U;
inline constexpr uint16_t kMsixMaskAll = 1U << 14U;

class MsixTable {
 public:
  // `vectors` is at most 2048; `router` outlives this.
  MsixTable(EventRouter& router, uint16_t vectors);

  uint16_t vectors() const { return static_cast<uint16_t>(entries_.size()); }
  uint32_t table_bytes() const { return static_cast<uint32_t>(entries_.size()) * kEntryBytes; }
  uint32_t pending_bytes() const { return (vectors() + 63U) / 64 * 8; }

  // Accesses from the guest. Outside the table reads give zeroes; writes other than of aligned
  // dwords and qwords are ignored, as software must not do them (6.8.2).
  void read_table(uint64_t offset, std::span<std::byte> data) const;
  void write_table(uint64_t offset, std::span<const std::byte> data);
  void read_pending(uint64_t offset, std::span<std::byte> data) const;
  // Message Control of the capability, as the guest has written it.
  void set_control(uint16_t control);

  // Gives the routes back. Signals do nothing from now on, but a guest that still reaches the table
  // may have its vectors routed again.
  void release_routes();

  // Interrupts, or remembers it while masked. Nothing for a vector beyond the table or while
  // MSI-X is off. Any thread.
  void signal(uint16_t vector);

 private:
  static constexpr uint32_t kEntryBytes = 16;
  static constexpr uint32_t kEntryMasked = 1;

  // Of Entry::state.
  static constexpr uint8_t kMasked = 1;
  static constexpr uint8_t kRemember = 2;  // MSI-X is on: a signal while masked is kept
  static constexpr uint8_t kPending = 4;

  struct Entry {
    uint32_t words[4] = {0, 0, 0, kEntryMasked};  // as in the table
    std::atomic<uint8_t> state = kMasked;
    UniqueFd fd;  // set before kMasked is first cleared, then never changed
    std::optional<uint32_t> route;
    MsiMessage routed;
  };
  void update(Entry& entry);
  bool route(Entry& entry);

  EventRouter& router_;
  mutable std::mutex mutex_;  // guards all but Entry::state
  std::vector<Entry> entries_;
  uint16_t control_ = 0;
};

}  // namespace plumb
