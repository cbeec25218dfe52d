// EventRouter: connects eventfds with the guest, in both directions: interrupts (irqfd) and
// doorbells (ioeventfd). KvmEvents is the real one; tests of PCI functions have their own.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace plumb {

// What a function writes where to interrupt: PCI 3.0, section 6.8.
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const MsiMessage&) const = default;
};

class EventRouter {
 public:
  virtual ~EventRouter() = default;

  // Makes each signal on `fd` an interrupt that sends `message`. Returns the handle for the other
  // two. Lasts until remove_msi(), or as long as the VM. Any thread.
  virtual Result<uint32_t> add_msi(int fd, const MsiMessage& message) = 0;
  virtual Result<> change_msi(uint32_t handle, const MsiMessage& message) = 0;
  // Signals on `fd` interrupt no more, and the handle may be given again.
  virtual void remove_msi(uint32_t handle, int fd) = 0;

  // From now on, or no longer, a write of any width by the guest to `address` signals `fd`
  // without reaching the bus. False when that cannot be had: then the bus sees the writes. Any
  // thread.
  virtual bool add_doorbell(uint64_t address, int fd) = 0;
  virtual void remove_doorbell(uint64_t address, int fd) = 0;
};

}  // namespace plumb
