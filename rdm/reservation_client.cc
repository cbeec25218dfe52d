#include "rdm/reservation_client.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/message_socket.h"
#include "base/unix_socket.h"

namespace plumb {
namespace {

bool peer_gone(const Error& error) {
  return error.os_errno == EPIPE || error.os_errno == ECONNRESET;
}

}  // namespace

Result<UniqueFd> connect_to_broker(const std::string& socket_path, int timeout_ms) {
  Result<UniqueFd> connection = connect_unix(socket_path, SOCK_SEQPACKET, timeout_ms);
  if (connection) return connection;
  Error error = os_error(connection.error().os_errno,
                         "the reservation broker at {} does not answer: start "
                         "plumb-pr-broker.socket",
                         socket_path);
  error.kind = ErrorKind::kNotFound;
  return error;
}

Result<ReservationReply> ReservationClient::execute(int lun_fd, std::span<const std::byte> cdb,
                                                    std::span<const std::byte> parameters) {
  if (cdb.size() != kPrCdbBytes || parameters.size() > kReservationDataLimit) {
    return failed("a CDB of {} bytes with {} of parameters is not for the reservation broker",
                  cdb.size(), parameters.size());
  }
  ReservationRequest request;
  std::copy(cdb.begin(), cdb.end(), request.cdb.begin());
  request.parameters.assign(parameters.begin(), parameters.end());
  TRY(send(encode_request(request), lun_fd));
  Result<ReservationReply> reply = receive();
  // What is left of a conversation that went wrong must not answer the next request.
  if (!reply) connection_.reset();
  return reply;
}

Result<> ReservationClient::send(const std::vector<std::byte>& message, int lun_fd) {
  if (connection_) {
    Result<> sent = send_message(connection_.get(), message, {&lun_fd, 1});
    if (sent || !peer_gone(sent.error())) return sent;
  }
  connection_ = TRY(connect_());
  Result<> sent = send_message(connection_.get(), message, {&lun_fd, 1});
  // A broker with too many clients closes at once, but leaves a message that says so.
  if (!sent && peer_gone(sent.error())) return {};
  return sent;
}

Result<ReservationReply> ReservationClient::receive() {
  pollfd waiting{.fd = connection_.get(), .events = POLLIN, .revents = 0};
  int ready = -1;
  do {
    ready = ::poll(&waiting, 1, timeout_ms_);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return os_error(errno, "the reservation broker cannot be waited for");
  if (ready == 0) {
    return failed(
        "the reservation broker has not answered in {} ms; whether the command was carried out is "
        "not known",
        timeout_ms_);
  }
  Result<ReceivedMessage> message = receive_message(connection_.get(), kReservationMessageLimit);
  // A broker that closes without reading the request: the kernel tells that before the broker's own
  // last message, which has the reason.
  if (!message && peer_gone(message.error())) {
    message = receive_message(connection_.get(), kReservationMessageLimit);
  }
  if (!message || message->bytes.empty()) {
    return failed(
        "the reservation broker ended before it answered; whether the command was carried out is "
        "not known");
  }
  ReservationReply reply = TRY(decode_reply(message->bytes));
  if (reply.refused()) return failed("the reservation broker refuses: {}", reply.refusal);
  return reply;
}

}  // namespace plumb
