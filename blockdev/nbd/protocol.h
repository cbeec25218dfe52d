// The NBD protocol as a server speaks it: fixed newstyle negotiation, simple and structured
// replies, of the NBD project's doc/proto.md. Numbers are big-endian on the wire. Pure: reads what
// a client sent, and writes answers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "blockdev/nbd/extents.h"

namespace plumb::nbd {

using Bytes = std::vector<std::byte>;

// ---- negotiation --------------------------------------------------------------------------------

enum HandshakeFlag : uint16_t { kFixedNewstyle = 1U << 0U, kNoZeroes = 1U << 1U };

enum OptionNumber : uint32_t {
  kOptExportName = 1,
  kOptAbort = 2,
  kOptList = 3,
  kOptStartTls = 5,
  kOptInfo = 6,
  kOptGo = 7,
  kOptStructuredReply = 8,
  kOptListMetaContext = 9,
  kOptSetMetaContext = 10,
};

enum ReplyType : uint32_t {
  kRepAck = 1,
  kRepServer = 2,
  kRepInfo = 3,
  kRepMetaContext = 4,
  kRepErrUnsupported = (1U << 31U) + 1,
  kRepErrPolicy = (1U << 31U) + 2,
  kRepErrInvalid = (1U << 31U) + 3,
  kRepErrTlsRequired = (1U << 31U) + 5,
  kRepErrUnknown = (1U << 31U) + 6,
};

enum TransmissionFlag : uint16_t {
  kHasFlags = 1U << 0U,
  kReadOnly = 1U << 1U,
  kSendFlush = 1U << 2U,
  kSendFua = 1U << 3U,
  kSendTrim = 1U << 5U,
  kSendWriteZeroes = 1U << 6U,
  kSendDf = 1U << 7U,  // only beside structured replies
  kMultiConnection = 1U << 8U,
};

// What an export is to a client.
struct ExportFacts {
  std::string name;
  uint64_t size_bytes = 0;
  uint16_t flags = kHasFlags;  // TransmissionFlag
  uint32_t min_block_bytes = 1;
  uint32_t preferred_block_bytes = 65536;
  uint32_t max_block_bytes = 0;  // of one request's data
};

inline constexpr size_t kClientFlagsBytes = 4;
inline constexpr size_t kOptionHeaderBytes = 16;
// Of an option's data: a name has 4096 bytes at most, and there may be as much of queries.
inline constexpr uint32_t kMaxOptionBytes = 16384;
inline constexpr size_t kMaxNameBytes = 4096;

struct Option {
  uint32_t number = 0;
  uint32_t data_bytes = 0;  // that follow the header
};

// The data of kOptListMetaContext and kOptSetMetaContext.
struct MetaQuery {
  std::string export_name;
  std::vector<std::string> queries;  // "base:allocation", "qemu:"
};

// What the server says first.
Bytes greeting();
// The client's answer, HandshakeFlags. Errors: others, which a server must not go on with.
Result<uint32_t> parse_client_flags(std::span<const std::byte, kClientFlagsBytes> from);
// Errors: no option, or one with more data than kMaxOptionBytes.
Result<Option> parse_option(std::span<const std::byte, kOptionHeaderBytes> from);
// The name that kOptInfo or kOptGo asks for. Errors: not as long as it says.
Result<std::string> parse_info_query(std::span<const std::byte> data);
// Errors: not as long as it says, or a query without a namespace.
Result<MetaQuery> parse_meta_query(std::span<const std::byte> data);

Bytes option_reply(uint32_t option, uint32_t type, std::string_view data = {});
// A kRepServer: one export's name.
Bytes server_reply(const std::string& name);
// All that answers kOptInfo and kOptGo: size and flags, block sizes, the end.
Bytes info_replies(uint32_t option, const ExportFacts& facts);
// A kRepMetaContext.
Bytes meta_context_reply(uint32_t option, uint32_t id, std::string_view name);
// All that answers kOptExportName.
Bytes export_name_reply(const ExportFacts& facts, bool no_zeroes);

// ---- transmission -------------------------------------------------------------------------------

enum Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

enum CommandFlag : uint16_t {
  kFua = 1U << 0U,
  kNoHole = 1U << 1U,
  kDoNotFragment = 1U << 2U,
  kReqOne = 1U << 3U,
};

inline constexpr size_t kRequestBytes = 28;
struct Request {
  uint16_t flags = 0;    // CommandFlag, or others
  uint16_t command = 0;  // Command, or one that nobody offered
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;

  uint64_t end() const { return offset + length; }
};

// What was agreed on, beside the export.
struct Agreed {
  bool structured = false;
  std::vector<uint32_t> contexts;  // their ids
};

// Errors: what is no request; the connection makes no sense any more then.
Result<Request> parse_request(std::span<const std::byte, kRequestBytes> from);

// 0, or the errno with which a request ends that the export, or what was agreed on, does not allow:
// an unknown command or flag, none or too much data, beyond the end, not in whole blocks, a change
// of a read-only export. Not for kDisconnect.
int refusal(const Request& request, const ExportFacts& facts, const Agreed& agreed);

// An errno of ours as the protocol's number; what NBD has no number for is an I/O error.
uint32_t error_number(int error);

Bytes simple_reply(uint64_t cookie, int error);

// A chunk of a structured reply. The last of a reply is `done`.
struct ChunkOf {
  uint64_t cookie = 0;
  bool done = false;
};
// What goes before `length` bytes of data.
Bytes data_chunk(ChunkOf reply, uint64_t offset, uint32_t length);
Bytes hole_chunk(ChunkOf reply, uint64_t offset, uint32_t length);
Bytes none_chunk(uint64_t cookie);
// A whole reply; with an offset, it says where in the request the error was.
Bytes error_chunk(uint64_t cookie, int error, std::string_view message);
Bytes error_offset_chunk(uint64_t cookie, int error, std::string_view message, uint64_t offset);
Bytes block_status_chunk(ChunkOf reply, uint32_t context, std::span<const Extent> extents);

}  // namespace plumb::nbd
