// What an NBD client sends, message by message: a value within its bounds, or a sentence; and what
// is let pass is within the export.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "blockdev/nbd/protocol.h"

namespace {

using namespace plumb::nbd;

constexpr uint64_t kSize = (uint64_t{1} << 33U) + 512;

// `choice`: what the export offers.
void check_request(const Request& request, uint8_t choice) {
  ExportFacts facts;
  facts.size_bytes = (choice & 1U) != 0 ? kSize : 4096;
  facts.flags = kHasFlags | kSendFlush;
  if ((choice & 2U) != 0) facts.flags |= kReadOnly;
  if ((choice & 4U) != 0) facts.flags |= kSendFua | kSendTrim | kSendWriteZeroes;
  facts.min_block_bytes = (choice & 8U) != 0 ? 4096 : 1;
  facts.max_block_bytes = 32U << 20U;
  const Agreed agreed{.structured = (choice & 16U) != 0, .contexts = {0}};
  if (refusal(request, facts, agreed) != 0) return;
  ENSURE(request.command <= kBlockStatus && request.command != kDisconnect);
  if (request.command == kFlush) return;
  ENSURE(request.length > 0 && request.offset <= facts.size_bytes);
  ENSURE(request.length <= facts.size_bytes - request.offset);
  if (request.command == kRead || request.command == kBlockStatus) return;
  ENSURE((facts.flags & kReadOnly) == 0);
  ENSURE(request.offset % facts.min_block_bytes == 0);
  ENSURE(request.length % facts.min_block_bytes == 0);
  ENSURE(request.command != kWrite || request.length <= facts.max_block_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size >= kClientFlagsBytes) {
    const auto flags = parse_client_flags(bytes.first<kClientFlagsBytes>());
    ENSURE(!flags.ok() || (flags.value() & ~uint32_t{kFixedNewstyle | kNoZeroes}) == 0);
  }
  if (size >= kOptionHeaderBytes) {
    const auto option = parse_option(bytes.first<kOptionHeaderBytes>());
    ENSURE(!option.ok() || option.value().data_bytes <= kMaxOptionBytes);
  }
  if (size > kRequestBytes) {
    const auto request = parse_request(bytes.first<kRequestBytes>());
    if (request.ok()) check_request(request.value(), data[kRequestBytes]);
  }
  const auto name = parse_info_query(bytes);
  ENSURE(!name.ok() || (name.value().size() <= kMaxNameBytes && name.value().size() <= size));
  const auto query = parse_meta_query(bytes);
  if (query.ok()) {
    size_t sum = 8 + query.value().export_name.size();
    for (const std::string& one : query.value().queries) sum += 4 + one.size();
    ENSURE(sum == size);
  }
  return 0;
}
