// ReservationClient: a VM's way to the reservation broker.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "rdm/reservation_protocol.h"

namespace plumb {

constexpr const char* kReservationSocket = "/run/plumb-pr-broker.sock";
// Twice what the kernel gives a LUN for one command.
constexpr int kReservationTimeoutMs = 60000;

// One thread at a time. Connects when the first request comes, and after the broker was restarted:
// the process must still be allowed to make and connect Unix sockets then.
class ReservationClient {
 public:
  explicit ReservationClient(std::string socket_path, int timeout_ms = kReservationTimeoutMs)
      : socket_path_(std::move(socket_path)), timeout_ms_(timeout_ms) {}

  // Sends one PERSISTENT RESERVE IN or OUT to the LUN behind `lun_fd`, which stays the caller's,
  // and blocks for the answer: whatever the LUN said, errors included. Connects again, once, when
  // the broker was restarted since the last request.
  //
  // Errors: a CDB of another length, or more parameters than kReservationDataLimit; no broker; a
  // broker that refuses, with its reason; no answer in time, or the broker gone before it: then
  // whether the command was carried out is not known, and it is not sent again.
  Result<ReservationReply> execute(int lun_fd, std::span<const std::byte> cdb,
                                   std::span<const std::byte> parameters);

 private:
  Result<> send(const std::vector<std::byte>& message, int lun_fd);
  Result<ReservationReply> receive();

  std::string socket_path_;
  int timeout_ms_;
  UniqueFd connection_;
};

}  // namespace plumb
