// What an NBD client sends, message by message: a value within its bounds, or a sentence.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "blockdev/nbd/protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace plumb::nbd;
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size >= kClientFlagsBytes) {
    const auto flags = parse_client_flags(bytes.first<kClientFlagsBytes>());
    ENSURE(!flags.ok() || (flags.value() & ~uint32_t{kFixedNewstyle | kNoZeroes}) == 0);
  }
  if (size >= kOptionHeaderBytes) {
    const auto option = parse_option(bytes.first<kOptionHeaderBytes>());
    ENSURE(!option.ok() || option.value().data_bytes <= kMaxOptionBytes);
  }
  if (size >= kRequestBytes) {
    static_cast<void>(parse_request(bytes.first<kRequestBytes>()).ok());
  }
  const auto name = parse_info_query(bytes);
  ENSURE(!name.ok() || (name.value().size() <= kMaxNameBytes && name.value().size() <= size));
  return 0;
}
