#include "vmm/virtio/scsi_request.h"

#include <algorithm>

#include "base/endian.h"
#include "base/iovecs.h"

namespace plumb {
namespace {

constexpr uint32_t kTypeTask = 0;
constexpr uint32_t kTypeEventQuery = 1;
constexpr uint32_t kTypeEventSubscribe = 2;
constexpr size_t kEventResponseBytes = 5;

// Cuts the first `bytes` off `parts`; false when there are fewer.
bool take_place(std::span<iovec>& parts, size_t bytes, ScsiResponsePlace& place) {
  size_t whole = 0;
  while (whole < parts.size() && parts[whole].iov_len <= bytes) bytes -= parts[whole++].iov_len;
  place.whole = parts.first(whole);
  parts = parts.subspan(whole);
  if (bytes == 0) return true;
  if (parts.empty()) return false;
  iovec& last = parts.front();
  place.last = {.iov_base = last.iov_base, .iov_len = bytes};
  last.iov_base = static_cast<std::byte*>(last.iov_base) + bytes;
  last.iov_len -= bytes;
  return true;
}

}  // namespace

// 5.6.6.1: 1, target, single-level LUN in peripheral or flat format (SAM-5 4.7.7), zeroes.
std::optional<uint8_t> target_of(const ScsiLunAddress& address) {
  const bool zero = (address[2] & 0xbfU) == 0 && std::all_of(address.begin() + 3, address.end(),
                                                             [](uint8_t b) { return b == 0; });
  if (address[0] != 1 || !zero) return std::nullopt;
  return address[1];
}

ScsiLunAddress address_of(uint8_t target) { return {1, target, 0x40}; }

void ScsiResponsePlace::put(std::span<const std::byte> bytes) const {
  const size_t copied = copy_to(whole, bytes);
  copy_to(std::span(&last, 1), bytes.subspan(copied));
}

std::optional<ScsiRequest> parse_scsi_request(std::span<iovec> readable, std::span<iovec> writable,
                                              uint32_t cdb_size, uint32_t sense_size) {
  ScsiRequest request;
  if (!take_place(writable, kScsiResponseBytes + sense_size, request.response)) return std::nullopt;
  std::array<std::byte, kScsiCommandHeaderBytes> header;
  if (!take_front(readable, header)) return std::nullopt;
  std::copy_n(reinterpret_cast<const uint8_t*>(header.data()), request.lun.size(),
              request.lun.begin());
  request.id = load_le<uint64_t>(&header[8]);
  const std::span cdb = std::as_writable_bytes(std::span(request.cdb));
  if (!take_front(readable, cdb.first(std::min<size_t>(cdb_size, cdb.size())))) return std::nullopt;
  for (size_t rest = cdb_size - std::min<size_t>(cdb_size, cdb.size()); rest > 0; --rest) {
    std::byte ignored{};
    if (!take_front(readable, std::span(&ignored, 1))) return std::nullopt;
  }
  request.data_out = readable;
  request.data_in = writable;
  return request;
}

std::optional<ScsiControl> parse_scsi_control(std::span<iovec> readable,
                                              std::span<iovec> writable) {
  ScsiControl control;
  std::array<std::byte, 4> word;
  if (!take_front(readable, word)) return std::nullopt;
  const auto type = load_le<uint32_t>(word.data());
  control.manages_tasks = type == kTypeTask;
  if (type == kTypeTask) {
    if (!take_front(readable, word)) return std::nullopt;
    control.task = load_le<uint32_t>(word.data());
  } else if (type != kTypeEventQuery && type != kTypeEventSubscribe) {
    return std::nullopt;
  }
  if (!take_front(readable, std::as_writable_bytes(std::span(control.lun)))) return std::nullopt;
  if (type == kTypeTask) {
    std::array<std::byte, 8> id;
    if (!take_front(readable, id)) return std::nullopt;
    control.id = load_le<uint64_t>(id.data());
  }
  const size_t room = control.manages_tasks ? 1 : kEventResponseBytes;
  if (!take_place(writable, room, control.response)) return std::nullopt;
  return control;
}

}  // namespace plumb
