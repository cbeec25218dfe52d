// What a client sends to the reservation broker, what the broker sends back, and the SCSI commands
// within: each message accepted has exactly one encoding.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "rdm/reservation_protocol.h"

namespace {

bool same_bytes(const std::vector<std::byte>& one, std::span<const std::byte> other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end());
}

void parse(const plumb::ReservationRequest& request) {
  const auto out = plumb::parse_pr_out(request.cdb, request.parameters);
  if (const auto* command = std::get_if<plumb::PrOut>(&out)) {
    ENSURE(request.parameters.size() >= 24);
    ENSURE(command->type <= 8);
  }
  const auto in = plumb::parse_pr_in(request.cdb);
  ENSURE(std::holds_alternative<plumb::PrOut>(out) + std::holds_alternative<plumb::PrIn>(in) < 2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span message(reinterpret_cast<const std::byte*>(data), size);
  plumb::Result<plumb::ReservationRequest> request = plumb::decode_request(message);
  if (request.ok()) {
    ENSURE(same_bytes(plumb::encode_request(request.value()), message));
    parse(request.value());
  } else {
    ENSURE(!request.error().message.empty());
  }
  plumb::Result<plumb::ReservationReply> reply = plumb::decode_reply(message);
  if (reply.ok()) ENSURE(same_bytes(plumb::encode_reply(reply.value()), message));
  // A CDB and its parameters without the message around them: found sooner.
  if (size >= plumb::kPrCdbBytes) {
    plumb::ReservationRequest bare;
    std::copy_n(message.begin(), plumb::kPrCdbBytes, bare.cdb.begin());
    bare.parameters.assign(message.begin() + plumb::kPrCdbBytes, message.end());
    parse(bare);
  }
  return 0;
}
