// A virtio-blk request, parsed from the buffers of a chain. Source: virtio 1.2, section 5.2.6.
//
// Pure: it reads the header (copied once) and changes nothing but the iovecs, which it trims to
// the data. Every bound is checked here; what comes out can go to a Disk as it is.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "blockdev/block_device.h"

namespace plumb {

// Values of the status byte.
inline constexpr uint8_t kBlkOk = 0;
inline constexpr uint8_t kBlkIoError = 1;
inline constexpr uint8_t kBlkUnsupported = 2;

inline constexpr uint32_t kBlkSectorBytes = 512;  // of the protocol, whatever the device's blocks
inline constexpr uint32_t kBlkIdBytes = 20;

enum class BlkAction : uint8_t {
  kTransfer,  // op is kRead or kWrite; data, offset and length are set
  kRange,     // op is kDiscard or kWriteZeroes; offset, length and may_unmap are set
  kFlush,
  kGetId,   // data takes kBlkIdBytes
  kReject,  // answer with `verdict`, or, without a status byte, with nothing
};

struct BlkRequest {
  BlkAction action = BlkAction::kReject;
  uint8_t verdict = kBlkIoError;
  std::byte* status = nullptr;  // the last writable byte of the chain; nullptr when it has none
  BlockOp op = BlockOp::kRead;
  bool may_unmap = false;
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes
  std::span<iovec> data;
  uint64_t writable_bytes = 0;  // of the chain, the status included
};

// `info` is the disk's at the time of the call; the answer keeps to it.
BlkRequest parse_blk_request(std::span<iovec> readable, std::span<iovec> writable,
                             const BlockInfo& info);

}  // namespace plumb
