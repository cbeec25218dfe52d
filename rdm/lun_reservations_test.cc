#include "rdm/lun_reservations.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <thread>

#include "base/iovecs.h"
#include "base/message_socket.h"
#include "blockdev/mem_device.h"
#include "blockdev/scsi_disk.h"
#include "rdm/fake_pr_command.h"
#include "tests/fakes/scsi_client.h"

namespace plumb {
namespace {

// A disk with reservations, and the broker's end of its one connection.
struct Fixture {
  explicit Fixture(bool with_broker = true, bool read_only = false) {
    UniqueFd client_end;
    if (with_broker) {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
      client_end = UniqueFd(ends[0]);
      broker = UniqueFd(ends[1]);
    }
    auto connect = [end = std::move(client_end)]() mutable -> Result<UniqueFd> {
      if (!end) return make_error(ErrorKind::kNotFound, "there is no broker");
      return std::move(end);
    };
    reservations = LunReservations::start({.disk = "data",
                                           .lun = UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)),
                                           .connect = std::move(connect)},
                                          *thread)
                       .value();
    BlockInfo info;
    info.size_bytes = 1U << 20U;
    info.read_only = read_only;
    disk.emplace(Disk::Config{.id = "data"}, std::make_unique<MemDevice>(info, *thread), *thread);
    lun.emplace(*disk, ScsiIdentity{.vendor = "PLUMB"}, reservations.get());
    client.emplace(*lun);
    TestCommand first{0x00};
    client->run(first);
  }
  ReservationRequest next_request() {
    Result<ReceivedMessage> message = receive_message(broker.get(), kReservationMessageLimit);
    REQUIRE(message.ok());
    CHECK(message->fds.size() == 1);
    return decode_request(message->bytes).value();
  }
  void answer(const ReservationReply& reply) {
    REQUIRE(send_message(broker.get(), encode_reply(reply)).ok());
  }

  std::unique_ptr<IoThread> thread = IoThread::start({.name = "io-test", .cpus = {}}).value();
  UniqueFd broker;
  std::unique_ptr<LunReservations> reservations;
  std::optional<Disk> disk;
  std::optional<ScsiDisk> lun;
  std::optional<ScsiClient> client;
};

std::vector<uint8_t> list_of(uint64_t key, uint64_t service_action_key) {
  const auto list = pr_list(key, service_action_key);
  const auto* bytes = reinterpret_cast<const uint8_t*>(list.data());
  return {bytes, bytes + list.size()};
}

}  // namespace

TEST_CASE("reservations: the broker gets command and parameters, the guest the LUN's answer") {
  Fixture fixture;
  TestCommand reserve{0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0};
  fixture.client->send(reserve.sends(list_of(0xa1, 0)));
  const ReservationRequest request = fixture.next_request();
  CHECK(request.cdb == pr_out_cdb(1, 5));
  CHECK(request.parameters == pr_list(0xa1, 0));
  fixture.answer({.status = ScsiStatus::kReservationConflict});
  fixture.client->wait(reserve);
  CHECK(reserve.status == ScsiStatus::kReservationConflict);
  CHECK(reserve.moved_bytes == 24);

  TestCommand keys{0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0, 0};
  fixture.client->send(keys.takes(4096));
  CHECK(fixture.next_request().parameters.empty());
  fixture.answer({.data = to_bytes({0, 0, 0, 7, 0, 0, 0, 0})});
  fixture.client->wait(keys);
  CHECK(keys.came() == std::vector<uint8_t>{0, 0, 0, 7, 0, 0, 0, 0});

  TestCommand preempted{0x5e, 1, 0, 0, 0, 0, 0, 0x10, 0, 0};
  fixture.client->send(preempted.takes(4096));
  fixture.next_request();
  const auto sense = fixed_sense({6, 0x2a, 5});
  fixture.answer({.status = ScsiStatus::kCheckCondition, .sense = {sense.begin(), sense.end()}});
  fixture.client->wait(preempted);
  CHECK(preempted.told() == ScsiSense{6, 0x2a, 5});
}

TEST_CASE("reservations: reads go on while the broker takes its time") {
  Fixture fixture;
  TestCommand keys{0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0, 0};
  fixture.client->send(keys.takes(64));
  fixture.next_request();
  TestCommand read{0x28, 0, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.client->run(read.takes(512)).status == ScsiStatus::kGood);
  // This one waits until no other command is at the medium.
  TestCommand verify{0x2f, 0, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.client->run(verify).status == ScsiStatus::kGood);
  CHECK(keys.calls == 0);
  fixture.answer({});
  fixture.client->wait(keys);
}

TEST_CASE("reservations: without the broker, or its answer, the guest gets sense data") {
  TestCommand keys{0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0, 0};
  Fixture without(false);
  CHECK(without.client->run(keys.takes(64)).told() == sense::kTargetFailure);

  Fixture fixture;
  TestCommand clear{0x5f, 3, 0, 0, 0, 0, 0, 0, 24, 0};
  fixture.client->send(clear.sends(list_of(1, 0)));
  fixture.next_request();
  fixture.broker.reset();
  fixture.client->wait(clear);
  CHECK(clear.told() == sense::kCommunicationFailure);
  TestCommand later{0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0, 0};
  CHECK(fixture.client->run(later.takes(64)).told() == sense::kTargetFailure);
}

TEST_CASE("reservations: an image has none, and a read-only LUN is reserved by nobody") {
  Fixture fixture(true, true);
  TestCommand reserve{0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0};
  CHECK(fixture.client->run(reserve.sends(list_of(1, 0))).told() == sense::kWriteProtected);
  TestCommand report{0xa3, 0x0c, 0x03, 0x5f, 0, 6, 0, 0, 0, 64};
  CHECK(fixture.client->run(report.takes(64)).came().at(1) == 3);
  ScsiDisk image(*fixture.disk, {.vendor = "PLUMB"});
  ScsiClient client(image);
  for (const unsigned code : {0x5eU, 0x5fU}) {
    TestCommand first{0x00};
    client.run(first);
    TestCommand command{code, 1, 5, 0, 0, 0, 0, 0, 24, 0};
    CHECK(client.run(command.sends(list_of(1, 0))).told() == sense::kInvalidOperation);
    TestCommand asked{0xa3, 0x0c, 0x03, code, 0, 1, 0, 0, 0, 64};
    CHECK(client.run(asked.takes(64)).came().at(1) == 1);
  }
  fixture.lun.reset();
}

}  // namespace plumb
