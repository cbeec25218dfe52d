// ReservationClient: a VM's way to the reservation broker.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "rdm/reservation_protocol.h"

namespace plumb {

constexpr const char* kReservationSocket = "/run/plumb-pr-broker.sock";
// Twice what the kernel gives a LUN for one command.
constexpr int kReservationTimeoutMs = 60000;

// A connection to the broker's socket, for a ReservationClient. The error, of kind kNotFound, says
// what to start.
Result<UniqueFd> connect_to_broker(const std::string& socket_path = kReservationSocket,
                                   int timeout_ms = kReservationTimeoutMs);

// One thread at a time.
class ReservationClient {
 public:
  // Hands over a connection, whenever one is needed: when the first request comes, and after the
  // broker was restarted. Called on the thread of execute(). Its error ends the request.
  using Connect = std::move_only_function<Result<UniqueFd>()>;

  explicit ReservationClient(Connect connect, int timeout_ms = kReservationTimeoutMs)
      : connect_(std::move(connect)), timeout_ms_(timeout_ms) {}

  // Sends one PERSISTENT RESERVE IN or OUT to the LUN behind `lun_fd`, which stays the caller's,
  // and blocks for the answer: whatever the LUN said, errors included. Connects again, once, when
  // the broker was restarted since the last request.
  //
  // Errors: a CDB of another length, or more parameters than kReservationDataLimit; no connection
  // (kind kNotFound when there is no broker); a broker that refuses, with its reason; no answer in
  // time, or the broker gone before it: then whether the command was carried out is not known, and
  // it is not sent again.
  Result<ReservationReply> execute(int lun_fd, std::span<const std::byte> cdb,
                                   std::span<const std::byte> parameters);

 private:
  Result<> send(const std::vector<std::byte>& message, int lun_fd);
  Result<ReservationReply> receive();

  Connect connect_;
  int timeout_ms_;
  UniqueFd connection_;
};

}  // namespace plumb
