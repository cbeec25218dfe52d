// Fuzzes parse_blk_request: chains that are mostly good, cut into buffers anyhow, with rare
// faults. What must hold: whatever is accepted keeps to the disk's limits, and every byte that it
// names is one of the chain's; and what has no fault is accepted.
#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "vmm/virtio/blk_request.h"

namespace {

using plumb::BlkAction;
using plumb::BlkRequest;
using plumb::BlockInfo;
using plumb::BlockOp;

bool g_faulty = false;  // of this input

// Never once the input has ended.
bool rarely(FuzzedDataProvider& input) {
  const bool now = input.ConsumeIntegral<uint8_t>() >= 0xfc;
  g_faulty = g_faulty || now;
  return now;
}

BlockInfo make_info(FuzzedDataProvider& input) {
  BlockInfo info;
  info.logical_block_size = input.ConsumeBool() ? 512 : 4096;
  info.size_bytes =
      info.logical_block_size * input.ConsumeIntegralInRange<uint64_t>(1, 1ULL << 32U);
  info.read_only = rarely(input);
  info.max_discard_bytes = rarely(input) ? 0 : 1U << 20U;
  info.max_write_zeroes_bytes = rarely(input) ? 0 : 2U << 20U;
  return info;
}

// Cuts `memory` into buffers, as a driver is free to.
std::vector<iovec> cut(FuzzedDataProvider& input, std::vector<std::byte>& memory) {
  std::vector<iovec> parts;
  size_t at = 0;
  while (at < memory.size()) {
    size_t count = memory.size() - at;
    if (input.ConsumeBool()) count = input.ConsumeIntegralInRange<size_t>(1, count);
    parts.push_back({memory.data() + at, count});
    at += count;
  }
  return parts;
}

bool inside(const std::vector<std::byte>& memory, const void* from, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(from);
  return at >= memory.data() && at + bytes <= memory.data() + memory.size();
}

void append(std::vector<std::byte>& memory, const void* from, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(from);
  memory.insert(memory.end(), at, at + bytes);
}

void check_extent(const BlkRequest& request, const BlockInfo& info) {
  ENSURE(request.length > 0 && request.length % info.logical_block_size == 0);
  ENSURE(request.offset % info.logical_block_size == 0);
  ENSURE(request.offset <= info.size_bytes);
  ENSURE(request.length <= info.size_bytes - request.offset);
  ENSURE(request.op == BlockOp::kRead || !info.read_only);
}

// Of a request without a fault: whether there is anything to refuse.
bool acceptable(uint32_t type, uint64_t sector, uint64_t payload, const BlockInfo& info) {
  if (type == 4 || type == 8) return true;
  return payload > 0 && sector * 512 + payload <= info.size_bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  FuzzedDataProvider input(data, bytes);
  g_faulty = false;
  const BlockInfo info = make_info(input);
  constexpr std::array<uint32_t, 6> kTypes{0, 1, 4, 8, 11, 13};
  struct {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  } header{input.PickValueInArray(kTypes), 0, 0};
  if (rarely(input)) header.type = input.ConsumeIntegral<uint32_t>();
  header.sector = rarely(input)
                      ? input.ConsumeIntegral<uint64_t>()
                      : input.ConsumeIntegralInRange<uint64_t>(0, info.size_bytes / 512) / 8 * 8;
  std::vector<std::byte> out;
  std::vector<std::byte> in;
  append(out, &header, sizeof(header));
  const size_t blocks = input.ConsumeIntegralInRange<size_t>(0, 8);
  const size_t payload = blocks * info.logical_block_size;
  if (header.type == 0) in.resize(payload);
  if (header.type == 1) out.resize(out.size() + payload);
  if (header.type == 8) in.resize(20);
  if (header.type == 11 || header.type == 13) {
    struct {
      uint64_t sector;
      uint32_t sectors;
      uint32_t flags;
    } range{header.sector, static_cast<uint32_t>(payload / 512),
            header.type == 13 ? input.ConsumeIntegralInRange<uint32_t>(0, 1) : 0};
    if (rarely(input)) range.sectors = input.ConsumeIntegral<uint32_t>();
    if (rarely(input)) range.flags = input.ConsumeIntegral<uint32_t>();
    append(out, &range, sizeof(range));
  }
  in.resize(in.size() + 1);
  if (rarely(input)) out.resize(input.ConsumeIntegralInRange<size_t>(0, 600));
  if (rarely(input)) in.resize(input.ConsumeIntegralInRange<size_t>(0, 600));

  std::vector<iovec> readable = cut(input, out);
  std::vector<iovec> writable = cut(input, in);
  const BlkRequest request = plumb::parse_blk_request(readable, writable, info);
  ENSURE((request.status != nullptr) == !in.empty());
  if (request.status != nullptr) ENSURE(request.status == &in.back());
  ENSURE(request.writable_bytes == in.size());
  if (!g_faulty && acceptable(header.type, header.sector, payload, info)) {
    ENSURE(request.action != BlkAction::kReject);
  }
  size_t sum = 0;
  const bool to_guest = request.op == BlockOp::kRead;
  for (const iovec& part : request.data) {
    ENSURE(inside(to_guest ? in : out, part.iov_base, part.iov_len));
    sum += part.iov_len;
  }
  switch (request.action) {
    case BlkAction::kTransfer:
      check_extent(request, info);
      ENSURE(sum == request.length);
      break;
    case BlkAction::kRange:
      check_extent(request, info);
      ENSURE(request.length <= (request.op == BlockOp::kDiscard ? info.max_discard_bytes
                                                                : info.max_write_zeroes_bytes));
      break;
    case BlkAction::kGetId:
      ENSURE(sum == plumb::kBlkIdBytes);
      break;
    case BlkAction::kFlush:
      break;
    case BlkAction::kReject:
      ENSURE(request.verdict != plumb::kBlkOk);
      ENSURE(request.data.empty());
      break;
  }
  return 0;
}
