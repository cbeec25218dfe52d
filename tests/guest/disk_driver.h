// The probe guest's driver for a disk over virtio-pci, virtio-blk or the first target of
// virtio-scsi (virtio 1.2, sections 2.7, 4.1, 5.2, 5.6): one queue of requests, polled, no
// interrupts.
#pragma once

#include <stddef.h>
#include <stdint.h>

constexpr unsigned kMaxDepth = 64;  // requests in flight

enum RequestType : uint32_t { kIn = 0, kOut = 1, kFlush = 4, kGetId = 8 };
enum RequestStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2, kPending = 0xff };

class DiskDriver {
 public:
  // Finds the first virtio-blk or virtio-scsi function on bus 0 and initialises it; false when
  // there is none.
  bool open();

  // Then kGetId is no request, and an error of whatever kind is kIoError.
  bool scsi() const { return scsi_; }

  uint64_t sectors() const { return sectors_; }
  bool write_through() const { return write_through_; }

  // Puts a request into slot `slot` (below kMaxDepth, free) and into the ring. The buffer is split
  // into `segments` descriptors.
  void add(unsigned slot, RequestType type, uint64_t sector, void* buffer, uint32_t length,
           unsigned segments = 1);
  // Makes what was added visible, and rings the doorbell when the device wants that.
  void kick();
  // A slot whose request has ended, or -1; its status is in status().
  int poll();
  RequestStatus status(unsigned slot) const;

  // add, kick, and poll until it has ended.
  RequestStatus run(RequestType type, uint64_t sector, void* buffer, uint32_t length,
                    unsigned segments = 1);

 private:
  void find_registers(uintptr_t function);
  void assign_bars(uintptr_t function);
  void negotiate();
  void set_up_queue();
  void read_capacity();
  void put(uintptr_t address, uint32_t bytes, bool device_writes, bool last);
  void put_data(void* buffer, uint32_t length, unsigned segments, bool device_writes, bool last);

  uintptr_t common_ = 0;
  uintptr_t notify_ = 0;
  uintptr_t device_ = 0;
  uint32_t notify_multiplier_ = 0;
  uintptr_t doorbell_ = 0;
  uint64_t sectors_ = 0;
  bool scsi_ = false;
  uint16_t at_ = 0;  // the next descriptor of the chain that add() makes
  bool write_through_ = false;
  bool event_index_ = false;
  uint16_t available_ = 0;  // next index to publish
  uint16_t published_ = 0;
  uint16_t used_ = 0;  // next index to look at
};
