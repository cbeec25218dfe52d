#include "vmm/virtio/blk_request.h"

#include "base/iovecs.h"

namespace plumb {
namespace {

// Request types.
constexpr uint32_t kTypeIn = 0;
constexpr uint32_t kTypeOut = 1;
constexpr uint32_t kTypeFlush = 4;
constexpr uint32_t kTypeGetId = 8;
constexpr uint32_t kTypeDiscard = 11;
constexpr uint32_t kTypeWriteZeroes = 13;

constexpr uint32_t kRangeFlagUnmap = 1;

struct Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(Header) == 16);

struct Range {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
static_assert(sizeof(Range) == 16);

template <typename T>
bool take_front(std::span<iovec>& parts, T& value) {
  return plumb::take_front(parts, std::as_writable_bytes(std::span(&value, 1)));
}

// The last byte, which is cut off; nullptr when there is none.
std::byte* take_last_byte(std::span<iovec>& parts) {
  if (parts.empty()) return nullptr;
  iovec& part = parts.back();
  --part.iov_len;
  std::byte* last = static_cast<std::byte*>(part.iov_base) + part.iov_len;
  if (part.iov_len == 0) parts = parts.first(parts.size() - 1);
  return last;
}

// Sets offset and length when they are whole blocks of the device and inside it. `length` may be
// anything; nothing here can overflow.
bool set_extent(BlkRequest& request, uint64_t sector, uint64_t length, const BlockInfo& info) {
  const uint64_t sectors = info.size_bytes / kBlkSectorBytes;
  if (length == 0 || length % info.logical_block_size != 0 || sector >= sectors) return false;
  const uint64_t offset = sector * kBlkSectorBytes;
  if (offset % info.logical_block_size != 0 || length > info.size_bytes - offset) return false;
  request.offset = offset;
  request.length = length;
  return true;
}

void reject(BlkRequest& request, uint8_t verdict) {
  request.action = BlkAction::kReject;
  request.verdict = verdict;
  request.data = {};
}

void parse_transfer(BlkRequest& request, uint64_t sector, const BlockInfo& info) {
  if (request.op == BlockOp::kWrite && info.read_only) return reject(request, kBlkIoError);
  if (!set_extent(request, sector, total_bytes(request.data), info)) {
    return reject(request, kBlkIoError);
  }
  request.action = BlkAction::kTransfer;
}

void parse_range(BlkRequest& request, std::span<iovec> readable, const BlockInfo& info) {
  const bool discard = request.op == BlockOp::kDiscard;
  const uint64_t limit = discard ? info.max_discard_bytes : info.max_write_zeroes_bytes;
  if (info.read_only) return reject(request, kBlkIoError);
  if (limit == 0) return reject(request, kBlkUnsupported);
  // One segment, as the configuration space says.
  Range range;
  if (!take_front(readable, range) || !readable.empty()) return reject(request, kBlkIoError);
  const uint32_t known = discard ? 0 : kRangeFlagUnmap;
  if ((range.flags & ~known) != 0) return reject(request, kBlkUnsupported);
  const uint64_t length = uint64_t{range.sectors} * kBlkSectorBytes;
  if (length > limit || !set_extent(request, range.sector, length, info)) {
    return reject(request, kBlkIoError);
  }
  request.may_unmap = (range.flags & kRangeFlagUnmap) != 0;
  request.action = BlkAction::kRange;
}

}  // namespace

BlkRequest parse_blk_request(std::span<iovec> readable, std::span<iovec> writable,
                             const BlockInfo& info) {
  BlkRequest request;
  request.writable_bytes = total_bytes(writable);
  request.status = take_last_byte(writable);
  Header header;
  if (request.status == nullptr || !take_front(readable, header)) return request;
  switch (header.type) {
    case kTypeIn:
      request.op = BlockOp::kRead;
      request.data = writable;
      if (!readable.empty()) return reject(request, kBlkIoError), request;
      parse_transfer(request, header.sector, info);
      break;
    case kTypeOut:
      request.op = BlockOp::kWrite;
      request.data = readable;
      if (!writable.empty()) return reject(request, kBlkIoError), request;
      parse_transfer(request, header.sector, info);
      break;
    case kTypeFlush:
      request.op = BlockOp::kFlush;
      request.action = BlkAction::kFlush;
      break;
    case kTypeGetId:
      if (total_bytes(writable) != kBlkIdBytes) break;
      request.data = writable;
      request.action = BlkAction::kGetId;
      break;
    case kTypeDiscard:
    case kTypeWriteZeroes:
      request.op = header.type == kTypeDiscard ? BlockOp::kDiscard : BlockOp::kWriteZeroes;
      parse_range(request, readable, info);
      break;
    default:
      // Also SCSI commands, zoned and secure-erase requests, which are not offered.
      reject(request, kBlkUnsupported);
      break;
  }
  return request;
}

}  // namespace plumb
