#include "rdm/reservation_protocol.h"

#include <algorithm>

#include "base/endian.h"

namespace plumb {
namespace {

constexpr uint32_t kRequestMagic = 0x51525250;  // "PRRQ"
constexpr uint32_t kReplyMagic = 0x50525250;    // "PRRP"
constexpr uint16_t kVersion = 1;

// Offsets in the header; what is not named is zero.
constexpr size_t kMagicAt = 0;
constexpr size_t kVersionAt = 4;
constexpr size_t kRequestDataBytesAt = 8;
constexpr size_t kCdbAt = 16;
constexpr size_t kKindAt = 6;
constexpr size_t kStatusAt = 7;
constexpr size_t kReplyDataBytesAt = 8;
constexpr size_t kSenseBytesAt = 12;

constexpr uint8_t kAnswer = 0;
constexpr uint8_t kRefusal = 1;

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte byte) { return byte == std::byte{}; });
}

std::vector<std::byte> header(uint32_t magic) {
  std::vector<std::byte> message(kReservationHeaderBytes);
  store_le(message.data() + kMagicAt, magic);
  store_le(message.data() + kVersionAt, kVersion);
  return message;
}

Result<> check_header(std::span<const std::byte> message, uint32_t magic) {
  if (message.size() < kReservationHeaderBytes) {
    return failed("a message of {} bytes is shorter than the header of {}", message.size(),
                  kReservationHeaderBytes);
  }
  if (load_le<uint32_t>(message.data() + kMagicAt) != magic) {
    return failed("a message without the magic number of this protocol");
  }
  const auto version = load_le<uint16_t>(message.data() + kVersionAt);
  if (version != kVersion) {
    return failed("version {} of the protocol is not spoken here, which is {}", version, kVersion);
  }
  return {};
}

Result<> check_length(std::span<const std::byte> message, size_t sense_bytes, size_t data_bytes) {
  if (data_bytes > kReservationDataLimit || sense_bytes > kReservationSenseLimit) {
    return failed("{} bytes of data and {} of sense are announced; at most {} and {} may be",
                  data_bytes, sense_bytes, kReservationDataLimit, kReservationSenseLimit);
  }
  if (message.size() != kReservationHeaderBytes + sense_bytes + data_bytes) {
    return failed("a message of {} bytes announces {} of data and {} of sense", message.size(),
                  data_bytes, sense_bytes);
  }
  return {};
}

std::vector<std::byte> copy(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::vector<std::byte> encode_request(const ReservationRequest& request) {
  ENSURE(request.parameters.size() <= kReservationDataLimit);
  std::vector<std::byte> message = header(kRequestMagic);
  store_le(message.data() + kRequestDataBytesAt, static_cast<uint32_t>(request.parameters.size()));
  std::copy(request.cdb.begin(), request.cdb.end(), message.begin() + kCdbAt);
  message.insert(message.end(), request.parameters.begin(), request.parameters.end());
  return message;
}

std::vector<std::byte> encode_reply(const ReservationReply& reply) {
  ENSURE(reply.sense.size() <= kReservationSenseLimit);
  ENSURE(reply.data.size() <= kReservationDataLimit);
  std::vector<std::byte> message = header(kReplyMagic);
  if (reply.refused()) {
    const auto text = std::as_bytes(std::span(reply.refusal))
                          .first(std::min(reply.refusal.size(), kReservationDataLimit));
    message[kKindAt] = std::byte{kRefusal};
    store_le(message.data() + kReplyDataBytesAt, static_cast<uint32_t>(text.size()));
    message.insert(message.end(), text.begin(), text.end());
    return message;
  }
  message[kStatusAt] = static_cast<std::byte>(reply.status);
  store_le(message.data() + kReplyDataBytesAt, static_cast<uint32_t>(reply.data.size()));
  store_le(message.data() + kSenseBytesAt, static_cast<uint32_t>(reply.sense.size()));
  message.insert(message.end(), reply.sense.begin(), reply.sense.end());
  message.insert(message.end(), reply.data.begin(), reply.data.end());
  return message;
}

Result<ReservationRequest> decode_request(std::span<const std::byte> message) {
  TRY(check_header(message, kRequestMagic));
  const auto data_bytes = load_le<uint32_t>(message.data() + kRequestDataBytesAt);
  TRY(check_length(message, 0, data_bytes));
  if (!all_zero(message.subspan(6, 2)) || !all_zero(message.subspan(12, 4)) ||
      !all_zero(message.subspan(kCdbAt + kPrCdbBytes, 6))) {
    return failed("reserved bytes of a request are not zero");
  }
  ReservationRequest request;
  std::copy_n(message.begin() + kCdbAt, kPrCdbBytes, request.cdb.begin());
  const auto opcode = std::to_integer<uint8_t>(request.cdb[0]);
  if (opcode != kPersistentReserveIn && opcode != kPersistentReserveOut) {
    return failed("SCSI command {:#04x} is not for the reservation broker", opcode);
  }
  if (opcode == kPersistentReserveIn && data_bytes != 0) {
    return failed("PERSISTENT RESERVE IN carries no parameter list");
  }
  request.parameters = copy(message.subspan(kReservationHeaderBytes));
  return request;
}

Result<ReservationReply> decode_reply(std::span<const std::byte> message) {
  TRY(check_header(message, kReplyMagic));
  const auto kind = std::to_integer<uint8_t>(message[kKindAt]);
  const auto status = std::to_integer<uint8_t>(message[kStatusAt]);
  const auto data_bytes = load_le<uint32_t>(message.data() + kReplyDataBytesAt);
  const auto sense_bytes = load_le<uint32_t>(message.data() + kSenseBytesAt);
  TRY(check_length(message, sense_bytes, data_bytes));
  if (!all_zero(message.subspan(16, 16))) return failed("reserved bytes of a reply are not zero");
  const auto sense = message.subspan(kReservationHeaderBytes, sense_bytes);
  const auto data = message.subspan(kReservationHeaderBytes + sense_bytes);
  ReservationReply reply;
  if (kind == kRefusal) {
    if (status != 0 || !sense.empty() || data.empty()) {
      return failed("a refusal has a text, and neither status nor sense");
    }
    reply.refusal.assign(reinterpret_cast<const char*>(data.data()), data.size());
    return reply;
  }
  if (kind != kAnswer) return failed("a reply of unknown kind {}", kind);
  reply.status = static_cast<ScsiStatus>(status);
  reply.sense = copy(sense);
  reply.data = copy(data);
  return reply;
}

}  // namespace plumb
