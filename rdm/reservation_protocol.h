// The messages between a VM and the reservation broker: one request, one reply, each one message of
// a SOCK_SEQPACKET socket. Pure; docs/reservations.md has the byte offsets. Integers are
// little-endian, except within CDB, parameter list, sense and data, which are SCSI's own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "rdm/pr_command.h"

namespace plumb {

constexpr size_t kReservationHeaderBytes = 32;
constexpr size_t kReservationDataLimit = 8192;  // parameter list, or data returned
constexpr size_t kReservationSenseLimit = 96;
constexpr size_t kReservationMessageLimit =
    kReservationHeaderBytes + kReservationSenseLimit + kReservationDataLimit;

// The LUN's descriptor travels beside it (SCM_RIGHTS).
struct ReservationRequest {
  std::array<std::byte, kPrCdbBytes> cdb{};
  std::vector<std::byte> parameters;  // empty for PERSISTENT RESERVE IN
};

// What the LUN answers, or why it was not asked.
struct ReservationReply {
  ScsiStatus status = ScsiStatus::kGood;
  std::vector<std::byte> sense;
  std::vector<std::byte> data;
  std::string refusal;  // not empty: the broker refuses, nothing was sent to the LUN

  bool refused() const { return !refusal.empty(); }
};

// Own callers keep the limits above (ENSURE); a refusal longer than kReservationDataLimit is cut.
std::vector<std::byte> encode_request(const ReservationRequest& request);
std::vector<std::byte> encode_reply(const ReservationReply& reply);

// The error says which field is wrong. Accepts exactly what the encoders make: each message has one
// encoding, and bytes that are reserved are zero.
Result<ReservationRequest> decode_request(std::span<const std::byte> message);
Result<ReservationReply> decode_reply(std::span<const std::byte> message);

}  // namespace plumb
