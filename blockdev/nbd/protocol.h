// The NBD protocol as a server speaks it: fixed newstyle negotiation and simple replies, of the NBD
// project's doc/proto.md. Numbers are big-endian on the wire. Pure: reads what a client sent, and
// writes answers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb::nbd {

using Bytes = std::vector<std::byte>;

// ---- negotiation --------------------------------------------------------------------------------

enum HandshakeFlag : uint16_t { kFixedNewstyle = 1U << 0U, kNoZeroes = 1U << 1U };

enum OptionNumber : uint32_t {
  kOptExportName = 1,
  kOptAbort = 2,
  kOptList = 3,
  kOptInfo = 6,
  kOptGo = 7,
};

enum ReplyType : uint32_t {
  kRepAck = 1,
  kRepServer = 2,
  kRepInfo = 3,
  kRepErrUnsupported = (1U << 31U) + 1,
  kRepErrInvalid = (1U << 31U) + 3,
  kRepErrUnknown = (1U << 31U) + 6,
};

enum TransmissionFlag : uint16_t {
  kHasFlags = 1U << 0U,
  kReadOnly = 1U << 1U,
  kSendFlush = 1U << 2U,
  kMultiConnection = 1U << 8U,
};

// What an export is to a client.
struct ExportFacts {
  std::string name;
  uint64_t size_bytes = 0;
  uint16_t flags = kHasFlags;  // TransmissionFlag
  uint32_t preferred_block_bytes = 4096;
  uint32_t max_block_bytes = 0;  // of one request; the least is one byte
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

// What the server says first.
Bytes greeting();
// The client's answer, HandshakeFlags. Errors: others, which a server must not go on with.
Result<uint32_t> parse_client_flags(std::span<const std::byte, kClientFlagsBytes> from);
// Errors: no option, or one with more data than kMaxOptionBytes.
Result<Option> parse_option(std::span<const std::byte, kOptionHeaderBytes> from);
// The name that kOptInfo or kOptGo asks for. Errors: not as long as it says.
Result<std::string> parse_info_query(std::span<const std::byte> data);

Bytes option_reply(uint32_t option, uint32_t type, std::string_view data = {});
// The data of a kRepServer: one export's name.
Bytes list_reply(const ExportFacts& facts);
// All that answers kOptInfo and kOptGo: size and flags, block sizes, the end.
Bytes info_replies(uint32_t option, const ExportFacts& facts);
// All that answers kOptExportName.
Bytes export_name_reply(const ExportFacts& facts, bool no_zeroes);

// ---- transmission -------------------------------------------------------------------------------

enum Command : uint16_t { kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3 };

inline constexpr size_t kRequestBytes = 28;
struct Request {
  uint16_t flags = 0;
  uint16_t command = 0;  // Command, or one that nobody offered
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
};

// Errors: what is no request; the connection makes no sense any more then.
Result<Request> parse_request(std::span<const std::byte, kRequestBytes> from);

// `error` is 0 or an errno of ours; what NBD has no number for is an I/O error.
Bytes simple_reply(uint64_t cookie, int error);

}  // namespace plumb::nbd
