#include "rdm/reservation_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <thread>

#include "base/file.h"
#include "base/message_socket.h"
#include "base/unix_socket.h"
#include "rdm/fake_pr_command.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

constexpr int kDeadlineMs = 60000;  // so that a hang becomes a failure

UniqueFd accept_one(int listener) {
  pollfd waiting{.fd = listener, .events = POLLIN, .revents = 0};
  ENSURE(::poll(&waiting, 1, kDeadlineMs) == 1);
  return UniqueFd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
}

// A broker whose conversation a test writes down, on a thread of its own.
class Script {
 public:
  explicit Script(std::function<void(int listener)> script) {
    Result<UniqueFd> listener = listen_unix(path(), 8, SOCK_SEQPACKET);
    REQUIRE(listener.ok());
    thread_ = std::thread(
        [fd = std::move(listener).value(), script = std::move(script)] { script(fd.get()); });
  }
  ~Script() { end(); }
  void end() {
    if (thread_.joinable()) thread_.join();
  }
  std::string path() const { return folder_.path() + "/socket"; }

 private:
  TemporaryFolder folder_;
  std::thread thread_;
};

ReceivedMessage next_request(const UniqueFd& connection) {
  Result<ReceivedMessage> message = receive_message(connection.get(), kReservationMessageLimit);
  ENSURE(message.ok());
  return std::move(message).value();
}

void answer(const UniqueFd& connection, const ReservationReply& reply) {
  Result<> sent = send_message(connection.get(), encode_reply(reply));
  ENSURE(sent.ok());
}

const ReservationReply kConflicts{.status = ScsiStatus::kReservationConflict};

Result<ReservationReply> read_keys(ReservationClient& client) {
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  return client.execute(file.get(), pr_in_cdb(0), {});
}

ReservationClient::Connect to(const std::string& path) {
  return [path] { return connect_to_broker(path); };
}

std::string error_of(Result<ReservationReply> reply) {
  return reply ? "no error" : reply.error().message;
}

}  // namespace

TEST_CASE("the broker gets the command, the parameters and the descriptor; the caller the answer") {
  ReservationRequest seen;
  struct stat device {};
  Script broker([&](int listener) {
    const UniqueFd connection = accept_one(listener);
    const ReceivedMessage message = next_request(connection);
    Result<ReservationRequest> request = decode_request(message.bytes);
    ENSURE(request.ok() && ::fstat(message.fds.at(0).get(), &device) == 0);
    seen = std::move(request).value();
    answer(connection, {.status = ScsiStatus::kCheckCondition,
                        .sense = to_bytes({0x70, 0, 6}),
                        .data = to_bytes({1, 2, 3})});
  });
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ReservationClient client(to(broker.path()));
  const auto list = pr_list(0x11, 0x22);
  Result<ReservationReply> reply = client.execute(file.get(), pr_out_cdb(4, 5), list);
  broker.end();
  REQUIRE(reply.ok());
  CHECK(reply->status == ScsiStatus::kCheckCondition);
  CHECK(reply->sense == to_bytes({0x70, 0, 6}));
  CHECK(reply->data == to_bytes({1, 2, 3}));
  CHECK(seen.cdb == pr_out_cdb(4, 5));
  CHECK(seen.parameters == list);
  struct stat wanted {};
  REQUIRE(::fstat(file.get(), &wanted) == 0);
  CHECK(device.st_rdev == wanted.st_rdev);
}

TEST_CASE("without a broker the error says what to start") {
  const TemporaryFolder folder;
  ReservationClient client(to(folder.path() + "/none"));
  CHECK(error_of(read_keys(client)) ==
        "the reservation broker at " + folder.path() +
            "/none does not answer: start plumb-pr-broker.socket: No such file or directory");
}

TEST_CASE("a broker restarted between requests is connected again") {
  std::atomic<bool> closed = false;
  Script broker([&](int listener) {
    for (int turn = 0; turn < 2; ++turn) {
      UniqueFd connection = accept_one(listener);
      next_request(connection);
      answer(connection, kConflicts);
      connection.reset();
      closed = true;
      closed.notify_one();
    }
  });
  ReservationClient client(to(broker.path()));
  REQUIRE(read_keys(client).ok());
  closed.wait(false);
  Result<ReservationReply> again = read_keys(client);
  REQUIRE(again.ok());
  CHECK(again->status == ScsiStatus::kReservationConflict);
}

TEST_CASE("a request the broker may have carried out is not sent twice") {
  std::atomic<int> requests = 0;
  Script broker([&](int listener) {
    for (int turn = 0; turn < 2; ++turn) {
      const UniqueFd connection = accept_one(listener);
      next_request(connection);
      ++requests;
      if (turn == 1) answer(connection, kConflicts);
    }
  });
  ReservationClient client(to(broker.path()));
  CHECK_THAT(error_of(read_keys(client)),
             Catch::Contains("ended before it answered; whether the command was carried out"));
  CHECK(requests == 1);
  CHECK(read_keys(client).ok());  // the next is a new one
}

TEST_CASE("a broker that does not answer is given up, with the connection: no late answer counts") {
  std::atomic<bool> connected_again = false;
  Script broker([&](int listener) {
    const UniqueFd first = accept_one(listener);
    next_request(first);
    const UniqueFd second = accept_one(listener);
    next_request(second);
    connected_again = true;
  });
  ReservationClient client(to(broker.path()), 1);
  CHECK_THAT(error_of(read_keys(client)), Catch::Contains("has not answered in 1 ms"));
  CHECK_FALSE(read_keys(client).ok());
  broker.end();
  CHECK(connected_again);
}

TEST_CASE("a refusal of the broker is its text") {
  Script broker([&](int listener) {
    const UniqueFd connection = accept_one(listener);
    next_request(connection);
    answer(connection, {.refusal = "block device 8:1 is a partition"});
  });
  ReservationClient client(to(broker.path()));
  CHECK(error_of(read_keys(client)) ==
        "the reservation broker refuses: block device 8:1 is a partition");
}

TEST_CASE("a refusal left by a broker that has closed already is still read") {
  Script broker([&](int listener) {
    const UniqueFd connection = accept_one(listener);
    answer(connection, {.refusal = "64 clients are served already"});
  });
  ReservationClient client(to(broker.path()));
  CHECK_THAT(error_of(read_keys(client)), Catch::Contains("64 clients are served already"));
}

TEST_CASE("an answer that is none is an error") {
  Script broker([&](int listener) {
    const UniqueFd connection = accept_one(listener);
    next_request(connection);
    Result<> sent = send_message(connection.get(), to_bytes({'h', 'e', 'l', 'l', 'o'}));
    ENSURE(sent.ok());
  });
  ReservationClient client(to(broker.path()));
  CHECK_THAT(error_of(read_keys(client)), Catch::Contains("shorter than the header"));
}

TEST_CASE("commands that are no PERSISTENT RESERVE are not sent") {
  ReservationClient client(to("/none"));
  const auto cdb = to_bytes({0x12, 0, 0, 0, 36, 0});
  CHECK_THAT(error_of(client.execute(0, cdb, {})), Catch::Contains("CDB of 6 bytes"));
  const std::vector<std::byte> much(kReservationDataLimit + 1);
  CHECK_THAT(error_of(client.execute(0, pr_out_cdb(0), much)), Catch::Contains("8193"));
}

}  // namespace plumb
