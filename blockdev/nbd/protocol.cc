#include "blockdev/nbd/protocol.h"

#include <cerrno>
#include <concepts>

#include "base/endian.h"

namespace plumb::nbd {
namespace {

constexpr uint64_t kGreetingMagic = 0x4e42444d41474943;  // "NBDMAGIC"
constexpr uint64_t kOptionMagic = 0x49484156454f5054;    // "IHAVEOPT"
constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kSimpleReplyMagic = 0x67446698;
constexpr uint16_t kInfoExport = 0;
constexpr uint16_t kInfoBlockSize = 3;
constexpr size_t kZeroes = 124;  // after the answer to kOptExportName

template <std::unsigned_integral T>
void append(Bytes& to, T value) {
  const size_t at = to.size();
  to.resize(at + sizeof(T));
  store_be(to.data() + at, value);
}

void append(Bytes& to, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

std::string_view text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint32_t error_number(int error) {
  constexpr uint32_t kPerm = 1;
  constexpr uint32_t kIo = 5;
  constexpr uint32_t kNoMemory = 12;
  constexpr uint32_t kInvalid = 22;
  constexpr uint32_t kNotSupported = 95;
  switch (error) {
    case 0:
      return 0;
    case EPERM:
    case EROFS:
      return kPerm;
    case ENOMEM:
      return kNoMemory;
    case EINVAL:
      return kInvalid;
    case EOPNOTSUPP:
      return kNotSupported;
    default:
      return kIo;
  }
}

}  // namespace

Bytes greeting() {
  Bytes to;
  append(to, kGreetingMagic);
  append(to, kOptionMagic);
  append(to, static_cast<uint16_t>(kFixedNewstyle | kNoZeroes));
  return to;
}

Result<uint32_t> parse_client_flags(std::span<const std::byte, kClientFlagsBytes> from) {
  const uint32_t flags = load_be<uint32_t>(from.data());
  if ((flags & ~uint32_t{kFixedNewstyle | kNoZeroes}) == 0) return flags;
  return failed("the client asks for handshake flags {:#x}, which were not offered", flags);
}

Result<Option> parse_option(std::span<const std::byte, kOptionHeaderBytes> from) {
  if (load_be<uint64_t>(from.data()) != kOptionMagic) return failed("this is no option of NBD");
  const Option option{load_be<uint32_t>(from.data() + 8), load_be<uint32_t>(from.data() + 12)};
  if (option.data_bytes <= kMaxOptionBytes) return option;
  return failed("option {} has {} bytes, more than any needs", option.number, option.data_bytes);
}

Result<std::string> parse_info_query(std::span<const std::byte> data) {
  constexpr size_t kLengthBytes = 4;
  constexpr size_t kCountBytes = 2;
  if (data.size() < kLengthBytes + kCountBytes) return failed("a query of an export is too short");
  const uint32_t length = load_be<uint32_t>(data.data());
  if (length > kMaxNameBytes || length > data.size() - kLengthBytes - kCountBytes) {
    return failed("a query of an export is shorter than the name in it");
  }
  // What is asked for beside size and flags; a server may say more, or less.
  const uint16_t queries = load_be<uint16_t>(data.data() + kLengthBytes + length);
  if (data.size() != kLengthBytes + length + kCountBytes + size_t{queries} * sizeof(uint16_t)) {
    return failed("a query of an export has another length than it says");
  }
  return std::string(reinterpret_cast<const char*>(data.data()) + kLengthBytes, length);
}

Bytes option_reply(uint32_t option, uint32_t type, std::string_view data) {
  Bytes to;
  append(to, kOptionReplyMagic);
  append(to, option);
  append(to, type);
  append(to, static_cast<uint32_t>(data.size()));
  append(to, data);
  return to;
}

Bytes list_reply(const ExportFacts& facts) {
  Bytes data;
  append(data, static_cast<uint32_t>(facts.name.size()));
  append(data, facts.name);
  Bytes to = option_reply(kOptList, kRepServer, text_of(data));
  append(to, text_of(option_reply(kOptList, kRepAck)));
  return to;
}

Bytes info_replies(uint32_t option, const ExportFacts& facts) {
  Bytes exported;
  append(exported, kInfoExport);
  append(exported, facts.size_bytes);
  append(exported, facts.flags);
  Bytes blocks;
  append(blocks, kInfoBlockSize);
  append(blocks, uint32_t{1});
  append(blocks, facts.preferred_block_bytes);
  append(blocks, facts.max_block_bytes);
  Bytes to = option_reply(option, kRepInfo, text_of(exported));
  append(to, text_of(option_reply(option, kRepInfo, text_of(blocks))));
  append(to, text_of(option_reply(option, kRepAck)));
  return to;
}

Bytes export_name_reply(const ExportFacts& facts, bool no_zeroes) {
  Bytes to;
  append(to, facts.size_bytes);
  append(to, facts.flags);
  if (!no_zeroes) to.resize(to.size() + kZeroes);
  return to;
}

Result<Request> parse_request(std::span<const std::byte, kRequestBytes> from) {
  if (load_be<uint32_t>(from.data()) != kRequestMagic) return failed("this is no request of NBD");
  Request request;
  request.flags = load_be<uint16_t>(from.data() + 4);
  request.command = load_be<uint16_t>(from.data() + 6);
  request.cookie = load_be<uint64_t>(from.data() + 8);
  request.offset = load_be<uint64_t>(from.data() + 16);
  request.length = load_be<uint32_t>(from.data() + 24);
  return request;
}

Bytes simple_reply(uint64_t cookie, int error) {
  Bytes to;
  to.reserve(sizeof(kSimpleReplyMagic) + sizeof(uint32_t) + sizeof(cookie));
  append(to, kSimpleReplyMagic);
  append(to, error_number(error));
  append(to, cookie);
  return to;
}

}  // namespace plumb::nbd
