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
constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
constexpr uint16_t kReplyFlagDone = 1;
enum ChunkType : uint16_t {
  kChunkNone = 0,
  kChunkOffsetData = 1,
  kChunkOffsetHole = 2,
  kChunkBlockStatus = 5,
  kChunkError = (1U << 15U) + 1,
  kChunkErrorOffset = (1U << 15U) + 2,
};
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

// What is left to read of an option's data.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> data) : data_(data) {}

  size_t left() const { return data_.size(); }
  template <std::unsigned_integral T>
  Result<T> number() {
    if (data_.size() < sizeof(T)) return failed("an option is shorter than it says");
    const T value = load_be<T>(data_.data());
    data_ = data_.subspan(sizeof(T));
    return value;
  }
  // Its length goes before it.
  Result<std::string> text() {
    const uint32_t length = TRY(number<uint32_t>());
    if (length > kMaxNameBytes || length > data_.size()) {
      return failed("an option is shorter than a text in it");
    }
    std::string value(reinterpret_cast<const char*>(data_.data()), length);
    data_ = data_.subspan(length);
    return value;
  }

 private:
  std::span<const std::byte> data_;
};

Bytes chunk_head(ChunkOf reply, uint16_t type, uint64_t payload_bytes) {
  Bytes to;
  to.reserve(32);
  append(to, kStructuredReplyMagic);
  append(to, static_cast<uint16_t>(reply.done ? kReplyFlagDone : 0));
  append(to, type);
  append(to, reply.cookie);
  append(to, static_cast<uint32_t>(payload_bytes));
  return to;
}

// The commands that change the medium; each is offered by a flag.
uint16_t offered_by(uint16_t command) {
  switch (command) {
    case kTrim:
      return kSendTrim;
    case kWriteZeroes:
      return kSendWriteZeroes;
    default:
      return kHasFlags;
  }
}

uint16_t allowed_flags(uint16_t command, const ExportFacts& facts, const Agreed& agreed) {
  uint16_t allowed = (facts.flags & kSendFua) != 0 ? kFua : 0;
  if (command == kRead && agreed.structured) allowed |= kDoNotFragment;
  if (command == kWriteZeroes) allowed |= kNoHole;
  if (command == kBlockStatus) allowed |= kReqOne;
  return allowed;
}

// One that concerns a range of the export.
int range_refusal(const Request& request, const ExportFacts& facts) {
  const bool changes = request.command != kRead && request.command != kBlockStatus;
  if (changes && (facts.flags & kReadOnly) != 0) return EPERM;
  if ((facts.flags & offered_by(request.command)) == 0) return EINVAL;
  const bool has_data = request.command == kRead || request.command == kWrite;
  if (request.length == 0 || (has_data && request.length > facts.max_block_bytes)) return EINVAL;
  if (request.offset > facts.size_bytes || request.length > facts.size_bytes - request.offset) {
    return request.command == kWrite || request.command == kWriteZeroes ? ENOSPC : EINVAL;
  }
  const uint32_t unit = facts.min_block_bytes;
  return changes && (request.offset % unit != 0 || request.length % unit != 0) ? EINVAL : 0;
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
  Reader reader(data);
  std::string name = TRY(reader.text());
  // What is asked for beside size and flags; a server may say more, or less.
  const uint16_t queries = TRY(reader.number<uint16_t>());
  if (reader.left() == size_t{queries} * sizeof(uint16_t)) return name;
  return failed("a query of an export has another length than it says");
}

Result<MetaQuery> parse_meta_query(std::span<const std::byte> data) {
  Reader reader(data);
  MetaQuery query;
  query.export_name = TRY(reader.text());
  const uint32_t count = TRY(reader.number<uint32_t>());
  for (uint32_t i = 0; i < count; ++i) {
    query.queries.push_back(TRY(reader.text()));
    if (query.queries.back().find(':') == std::string::npos) {
      return failed("a query of metadata names no namespace");
    }
  }
  if (reader.left() > 0) return failed("a query of metadata is longer than it says");
  return query;
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

Bytes server_reply(const std::string& name) {
  Bytes data;
  append(data, static_cast<uint32_t>(name.size()));
  append(data, name);
  return option_reply(kOptList, kRepServer, text_of(data));
}

Bytes info_replies(uint32_t option, const ExportFacts& facts) {
  Bytes exported;
  append(exported, kInfoExport);
  append(exported, facts.size_bytes);
  append(exported, facts.flags);
  Bytes blocks;
  append(blocks, kInfoBlockSize);
  append(blocks, facts.min_block_bytes);
  append(blocks, facts.preferred_block_bytes);
  append(blocks, facts.max_block_bytes);
  Bytes to = option_reply(option, kRepInfo, text_of(exported));
  append(to, text_of(option_reply(option, kRepInfo, text_of(blocks))));
  append(to, text_of(option_reply(option, kRepAck)));
  return to;
}

Bytes meta_context_reply(uint32_t option, uint32_t id, std::string_view name) {
  Bytes data;
  append(data, id);
  append(data, name);
  return option_reply(option, kRepMetaContext, text_of(data));
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

int refusal(const Request& request, const ExportFacts& facts, const Agreed& agreed) {
  if ((request.flags & ~allowed_flags(request.command, facts, agreed)) != 0) return EINVAL;
  switch (request.command) {
    case kFlush:
      return request.offset == 0 && request.length == 0 ? 0 : EINVAL;
    case kBlockStatus:
      if (!agreed.structured || agreed.contexts.empty()) return EINVAL;
      return range_refusal(request, facts);
    case kRead:
    case kWrite:
    case kTrim:
    case kWriteZeroes:
      return range_refusal(request, facts);
    default:
      return EINVAL;
  }
}

uint32_t error_number(int error) {
  constexpr uint32_t kPerm = 1;
  constexpr uint32_t kIo = 5;
  constexpr uint32_t kNoMemory = 12;
  constexpr uint32_t kInvalid = 22;
  constexpr uint32_t kNoSpace = 28;
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
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return kNoSpace;
    case EOPNOTSUPP:
      return kNotSupported;
    default:
      return kIo;
  }
}

Bytes simple_reply(uint64_t cookie, int error) {
  Bytes to;
  to.reserve(sizeof(kSimpleReplyMagic) + sizeof(uint32_t) + sizeof(cookie));
  append(to, kSimpleReplyMagic);
  append(to, error_number(error));
  append(to, cookie);
  return to;
}

Bytes data_chunk(ChunkOf reply, uint64_t offset, uint32_t length) {
  Bytes to = chunk_head(reply, kChunkOffsetData, sizeof(offset) + uint64_t{length});
  append(to, offset);
  return to;
}

Bytes hole_chunk(ChunkOf reply, uint64_t offset, uint32_t length) {
  Bytes to = chunk_head(reply, kChunkOffsetHole, sizeof(offset) + sizeof(length));
  append(to, offset);
  append(to, length);
  return to;
}

Bytes none_chunk(uint64_t cookie) {
  return chunk_head({.cookie = cookie, .done = true}, kChunkNone, 0);
}

Bytes error_chunk(uint64_t cookie, int error, std::string_view message) {
  const uint64_t bytes = sizeof(uint32_t) + sizeof(uint16_t) + message.size();
  Bytes to = chunk_head({.cookie = cookie, .done = true}, kChunkError, bytes);
  append(to, error_number(error));
  append(to, static_cast<uint16_t>(message.size()));
  append(to, message);
  return to;
}

Bytes error_offset_chunk(uint64_t cookie, int error, std::string_view message, uint64_t offset) {
  const uint64_t bytes = sizeof(uint32_t) + sizeof(uint16_t) + message.size() + sizeof(offset);
  Bytes to = chunk_head({.cookie = cookie, .done = true}, kChunkErrorOffset, bytes);
  append(to, error_number(error));
  append(to, static_cast<uint16_t>(message.size()));
  append(to, message);
  append(to, offset);
  return to;
}

Bytes block_status_chunk(ChunkOf reply, uint32_t context, std::span<const Extent> extents) {
  constexpr size_t kDescriptorBytes = 2 * sizeof(uint32_t);
  Bytes to =
      chunk_head(reply, kChunkBlockStatus, sizeof(context) + extents.size() * kDescriptorBytes);
  to.reserve(to.size() + sizeof(context) + extents.size() * kDescriptorBytes);
  append(to, context);
  for (const Extent& extent : extents) {
    append(to, static_cast<uint32_t>(extent.length));
    append(to, extent.flags);
  }
  return to;
}

}  // namespace plumb::nbd
