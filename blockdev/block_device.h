// BlockDevice: moves sectors between memory and a medium, asynchronously, on one I/O thread.
//
// Every layer of a disk's stack (filters, file_device, mem_device) is one of these. A request
// goes down by submit() and comes back exactly once by its `done` function, which the I/O
// thread's loop calls later, never inside submit(). Nothing here knows guests or arrays.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/result.h"

namespace plumb {

class Disk;

enum class BlockOp : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };
inline constexpr size_t kBlockOps = 5;
// "read", "write", "flush", "discard", "write-zeroes".
const char* name_of(BlockOp op);

// Fixed facts of a device, asked before use. Sizes in bytes. A user that stays within them
// meets no "not supported" at run time.
struct BlockInfo {
  uint64_t size_bytes = 0;            // a multiple of logical_block_size
  uint32_t logical_block_size = 512;  // the unit of offset and length: 512 or 4096
  uint32_t physical_block_size = 512;
  uint32_t optimal_io_size = 0;    // 0: not reported
  uint32_t memory_alignment = 1;   // of buffers; others are bounced by the device, at a cost
  uint64_t max_discard_bytes = 0;  // 0: kDiscard is not offered
  uint32_t discard_granularity = 0;
  uint64_t max_write_zeroes_bytes = 0;  // 0: kWriteZeroes is not offered
  bool read_only = false;
  bool volatile_cache = false;  // a completed write that is not `durable` needs a kFlush
};

// One request. The submitter owns it, and it must not move or die between submit() and done();
// the destructor checks that. `iov` memory stays valid as long. After an error, offset, length and
// iov say what may not have been done: submitted again as it is, the request goes on.
struct BlockRequest {
  using Done = void (*)(BlockRequest&);

  BlockOp op = BlockOp::kRead;
  bool durable = false;    // kWrite, kDiscard, kWriteZeroes: on the medium before done()
  bool may_unmap = false;  // kWriteZeroes: the blocks may be deallocated
  uint64_t offset = 0;     // bytes from the start of the device
  uint64_t length = 0;     // bytes; for kRead and kWrite the sum of iov; 0 for kFlush
  iovec* iov = nullptr;    // changed by the layers below (short I/O moves it on)
  uint32_t iov_count = 0;

  // For Disk: called, on its thread, in place of the device's submit(), by a front end that changes
  // the medium in a way of its own; its end is `done`, later. Then there is no iov, and the extent
  // is not checked. Refused while the device must see changes (BlockDevice::must_see_changes).
  Done elsewhere = nullptr;

  Done done = nullptr;
  int error = 0;          // set before done(): 0, or a positive errno
  bool unwanted = false;  // nobody waits for it any more: an error ends it, whatever the policy

  BlockRequest() = default;
  BlockRequest(const BlockRequest&) = delete;
  BlockRequest& operator=(const BlockRequest&) = delete;
  ~BlockRequest() { ENSURE(!in_flight); }

  // Kept by Disk.
  bool in_flight = false;
  Disk* disk = nullptr;
  Done front_done = nullptr;  // the submitter's done, while it is in flight
  int64_t submitted_ns = 0;
  uint64_t submitted_bytes = 0;

  BlockRequest* next = nullptr;    // for whichever list holds it now
  BlockRequest* parent = nullptr;  // for a filter that sends a request of its own
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  // Fixed while the device is open, but for size_bytes, which reread_size() changes. Any thread;
  // size_bytes only on the device's I/O thread.
  virtual const BlockInfo& info() const = 0;

  // Looks again how large the medium is, and sets info().size_bytes when it has grown. Errors: it
  // has shrunk, or its size is no multiple of its blocks; then the size stays what it was. Only on
  // the device's I/O thread.
  virtual Result<> reread_size() { return {}; }

  // Whether every change of the medium must come by submit(); Disk then refuses those that would be
  // made elsewhere (BlockRequest::elsewhere), with EOPNOTSUPP. Fixed.
  virtual bool must_see_changes() const { return false; }

  // Takes `request`, which keeps to info(); its done() follows once, later, from the I/O
  // thread's loop. Only on the device's I/O thread.
  virtual void submit(BlockRequest& request) = 0;
};

}  // namespace plumb
