// Fuzzes the headers of virtio-scsi: chains cut into buffers anyhow. What must hold: what is parsed
// is what was sent, every byte named is one of the chain's and named once, and a whole header is
// never refused.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/endian.h"
#include "base/iovecs.h"
#include "vmm/virtio/scsi_request.h"

namespace {

using namespace plumb;

std::vector<iovec> cut(FuzzedDataProvider& input, std::vector<uint8_t>& memory) {
  std::vector<iovec> parts;
  for (size_t at = 0; at < memory.size();) {
    size_t count = memory.size() - at;
    if (input.ConsumeBool()) count = input.ConsumeIntegralInRange<size_t>(0, count);
    parts.push_back({memory.data() + at, count});
    at += count;
    if (count == 0 && parts.size() > 64) break;
  }
  return parts;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  FuzzedDataProvider input(data, bytes);
  const auto cdb_size = input.ConsumeIntegralInRange<uint32_t>(0, 252);
  const auto sense_size = input.ConsumeIntegralInRange<uint32_t>(0, 252);
  std::vector<uint8_t> writable(input.ConsumeIntegralInRange<size_t>(0, 700), 0xcc);
  std::vector<uint8_t> readable(input.ConsumeIntegralInRange<size_t>(0, 700));
  const std::vector<uint8_t> sent = input.ConsumeBytes<uint8_t>(readable.size());
  std::copy(sent.begin(), sent.end(), readable.begin());
  const bool is_control = input.ConsumeBool();
  std::vector<iovec> out = cut(input, readable);
  std::vector<iovec> in = cut(input, writable);
  const uint64_t out_bytes = total_bytes(out);
  const uint64_t in_bytes = total_bytes(in);

  if (is_control) {
    const auto control = parse_scsi_control(out, in);
    const uint32_t type = out_bytes < 4 ? UINT32_MAX : load_le<uint32_t>(readable.data());
    const size_t room = type == 0 ? 1 : 5;
    const bool good = type <= 2 && out_bytes >= (type == 0 ? 24 : 12) && in_bytes >= room;
    ENSURE(control.has_value() == good);
    if (!control) return 0;
    ENSURE(control->manages_tasks == (type == 0));
    control->response.put(std::vector<std::byte>(5));
    for (size_t i = 0; i < in_bytes; ++i) ENSURE(writable[i] == (i < room ? 0 : 0xcc));
    return 0;
  }
  const auto request = parse_scsi_request(out, in, cdb_size, sense_size);
  const bool whole = out_bytes >= kScsiCommandHeaderBytes + cdb_size &&
                     in_bytes >= kScsiResponseBytes + sense_size;
  ENSURE(request.has_value() == whole);
  if (!request) return 0;
  ENSURE(request->id == load_le<uint64_t>(&readable[8]));
  ENSURE(std::memcmp(request->lun.data(), readable.data(), request->lun.size()) == 0);
  const size_t known = std::min<size_t>(cdb_size, kScsiCdbBytes);
  ENSURE(std::memcmp(request->cdb.data(), readable.data() + kScsiCommandHeaderBytes, known) == 0);
  ENSURE(total_bytes(request->data_out) == out_bytes - kScsiCommandHeaderBytes - cdb_size);
  ENSURE(total_bytes(request->data_in) == in_bytes - kScsiResponseBytes - sense_size);
  const std::vector<std::byte> response(kScsiResponseBytes + sense_size, std::byte{0x11});
  request->response.put(response);
  for (size_t i = 0; i < in_bytes; ++i) ENSURE(writable[i] == (i < response.size() ? 0x11 : 0xcc));
  return 0;
}
