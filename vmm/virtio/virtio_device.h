// VirtioDevice: what a virtio device (blk, net, rng, console) is to its transport (virtio-pci).
// Source: virtio 1.2, sections 2 and 3.
//
// Life: configured by the driver → activate() → works on its I/O thread → reset() → configured
// again … The transport owns the configuration registers, the queues' addresses and the
// interrupt vectors; the device owns the queues from activate() to the end of reset().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "vmm/guest_memory.h"

namespace plumb {

// Raises a device's interrupts. Implemented by the transport; any thread.
class VirtioInterrupt {
 public:
  virtual ~VirtioInterrupt() = default;
  // The used ring of `queue` has news. Without a vector for it, nothing happens.
  virtual void signal_queue(uint16_t queue) = 0;
  // The configuration space has changed.
  virtual void signal_config() = 0;
  // Sets DEVICE_NEEDS_RESET and signals it: the driver broke the protocol beyond a request.
  virtual void needs_reset() = 0;
};

// A queue as the driver set it up; addresses are not yet checked against memory.
struct VirtioQueueSetup {
  bool enabled = false;
  uint16_t size = 0;  // a power of two, at most what the device offers
  GuestAddress descriptors = 0;
  GuestAddress driver_ring = 0;  // available ring
  GuestAddress device_ring = 0;  // used ring
  int kick_fd = -1;              // eventfd, signalled at each doorbell; owned by the transport
};

struct VirtioActivation {
  uint64_t features = 0;  // as negotiated
  std::span<const VirtioQueueSetup> queues;
  const GuestMemory* memory = nullptr;
  VirtioInterrupt* interrupt = nullptr;
};

// Feature bits of section 6 that the transport and every device here know.
inline constexpr uint64_t kVirtioFIndirectDesc = 1ULL << 28U;
inline constexpr uint64_t kVirtioFEventIdx = 1ULL << 29U;
inline constexpr uint64_t kVirtioFVersion1 = 1ULL << 32U;

// Device types of section 5.
inline constexpr uint16_t kVirtioIdNet = 1;
inline constexpr uint16_t kVirtioIdBlk = 2;
inline constexpr uint16_t kVirtioIdConsole = 3;
inline constexpr uint16_t kVirtioIdRng = 4;
inline constexpr uint16_t kVirtioIdScsi = 8;

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  virtual uint16_t device_id() const = 0;
  // Offered features, VERSION_1 included. Fixed.
  virtual uint64_t features() const = 0;
  // The largest size of each queue; a power of two, at most 1024. Fixed.
  virtual std::span<const uint16_t> queue_sizes() const = 0;

  // The device configuration space. Reads past its end give zeroes; writes to fields that are not
  // writable are ignored. On a vCPU thread, possibly several at once.
  virtual void read_config(uint32_t offset, std::span<std::byte> data) = 0;
  virtual void write_config(uint32_t offset, std::span<const std::byte> data) = 0;

  // DRIVER_OK was set: checks the queues against memory and starts to work. An error makes the
  // transport set DEVICE_NEEDS_RESET. On a vCPU thread; returns when the I/O thread has taken over.
  virtual Result<> activate(const VirtioActivation& activation) = 0;

  // The driver wrote status 0, or the VM goes away: returns when nothing is in flight, no guest
  // memory is touched any more, and no kick_fd is watched. Harmless when not active. On a vCPU
  // thread or the control thread.
  virtual void reset() = 0;
};

}  // namespace plumb
