#include "rdm/reservation_protocol.h"

#include <catch2/catch.hpp>
#include <functional>

#include "rdm/fake_pr_command.h"

namespace plumb {
namespace {

using Message = std::vector<std::byte>;

std::string error_of_request(const Message& message) {
  Result<ReservationRequest> request = decode_request(message);
  return request ? "" : request.error().message;
}

std::string error_of_reply(const Message& message) {
  Result<ReservationReply> reply = decode_reply(message);
  return reply ? "" : reply.error().message;
}

Message good_request() { return encode_request(pr_out(PrOutAction::kReserve, 5, 0x11)); }

Message good_reply() {
  return encode_reply({.status = ScsiStatus::kCheckCondition,
                       .sense = to_bytes({0x70, 0, 5}),
                       .data = to_bytes({1, 2})});
}

Message changed(Message message, size_t at, int value) {
  message[at] = static_cast<std::byte>(value);
  return message;
}

}  // namespace

TEST_CASE("a request keeps its CDB and parameters") {
  const ReservationRequest request = pr_out(PrOutAction::kPreempt, 5, 0x11, 0x22);
  Result<ReservationRequest> again = decode_request(encode_request(request));
  REQUIRE(again.ok());
  CHECK(again->cdb == request.cdb);
  CHECK(again->parameters == request.parameters);
}

TEST_CASE("a request is laid out as docs/reservations.md says") {
  const Message message = good_request();
  const Message head(message.begin(), message.begin() + 32);
  CHECK(head == to_bytes({'P',  'R', 'R', 'Q', 1, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0,
                          0x5f, 1,   5,   0,   0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0}));
  CHECK(message.size() == 56);
}

TEST_CASE("a reply is laid out as docs/reservations.md says") {
  CHECK(good_reply() ==
        to_bytes({'P', 'R', 'R', 'P', 1, 0, 0, 2, 2, 0, 0, 0, 3, 0,    0, 0, 0, 0, 0,
                  0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0x70, 0, 5, 1, 2}));
}

TEST_CASE("the largest request and the largest reply pass") {
  ReservationRequest request{pr_out_cdb(0, 0, kReservationDataLimit), {}};
  request.parameters.resize(kReservationDataLimit, std::byte{0xa5});
  Result<ReservationRequest> request_again = decode_request(encode_request(request));
  REQUIRE(request_again.ok());
  CHECK(request_again->parameters == request.parameters);

  ReservationReply reply;
  reply.sense.resize(kReservationSenseLimit, std::byte{0x5a});
  reply.data.resize(kReservationDataLimit, std::byte{0xa5});
  const Message message = encode_reply(reply);
  CHECK(message.size() == kReservationMessageLimit);
  Result<ReservationReply> reply_again = decode_reply(message);
  REQUIRE(reply_again.ok());
  CHECK(reply_again->sense == reply.sense);
  CHECK(reply_again->data == reply.data);
}

TEST_CASE("a refusal is a text, cut where it is too long") {
  Result<ReservationReply> reply = decode_reply(encode_reply({.refusal = "not a LUN"}));
  REQUIRE(reply.ok());
  CHECK(reply->refusal == "not a LUN");
  const std::string too_long(kReservationDataLimit + 1, 'x');
  Result<ReservationReply> cut = decode_reply(encode_reply({.refusal = too_long}));
  REQUIRE(cut.ok());
  CHECK(cut->refusal == too_long.substr(1));
}

TEST_CASE("a request cut anywhere, or too long, is refused") {
  const Message good = good_request();
  for (size_t size = 0; size < good.size(); ++size) {
    CHECK(error_of_request(Message(good.begin(), good.begin() + static_cast<long>(size))) != "");
  }
  Message longer = good;
  longer.push_back(std::byte{});
  CHECK(error_of_request(longer) == "a message of 57 bytes announces 24 of data and 0 of sense");
}

TEST_CASE("a reply cut anywhere, or too long, is refused") {
  const Message good = good_reply();
  for (size_t size = 0; size < good.size(); ++size) {
    CHECK(error_of_reply(Message(good.begin(), good.begin() + static_cast<long>(size))) != "");
  }
  Message longer = good;
  longer.push_back(std::byte{});
  CHECK(error_of_reply(longer) != "");
}

TEST_CASE("a length beyond the limits is refused, though the message be as long") {
  Message request = good_request();
  request.resize(kReservationHeaderBytes + kReservationDataLimit + 1);
  store_le(request.data() + 8, static_cast<uint32_t>(kReservationDataLimit + 1));
  CHECK_THAT(error_of_request(request), Catch::Contains("at most 8192 and 96 may be"));

  Message reply = good_reply();
  reply.resize(kReservationHeaderBytes + kReservationSenseLimit + 3);
  store_le(reply.data() + 12, static_cast<uint32_t>(kReservationSenseLimit + 1));
  CHECK_THAT(error_of_reply(reply), Catch::Contains("at most 8192 and 96 may be"));
}

TEST_CASE("lengths that wrap around are refused") {
  Message reply = good_reply();
  store_le(reply.data() + 8, 0xffffffffU);
  store_le(reply.data() + 12, 6U);
  CHECK(error_of_reply(reply) != "");
}

TEST_CASE("another magic number, version or kind is refused by its name") {
  CHECK_THAT(error_of_request(changed(good_request(), 0, 'Q')), Catch::Contains("magic number"));
  CHECK_THAT(error_of_request(changed(good_request(), 4, 2)), Catch::Contains("version 2"));
  CHECK_THAT(error_of_request(good_reply()), Catch::Contains("magic number"));
  CHECK_THAT(error_of_reply(good_request()), Catch::Contains("magic number"));
  CHECK_THAT(error_of_reply(changed(good_reply(), 6, 2)), Catch::Contains("unknown kind 2"));
}

TEST_CASE("bytes that are reserved must be zero") {
  for (const size_t at : {6U, 7U, 12U, 15U, 26U, 31U}) {
    CHECK_THAT(error_of_request(changed(good_request(), at, 1)), Catch::Contains("reserved"));
  }
  for (const size_t at : {16U, 31U}) {
    CHECK_THAT(error_of_reply(changed(good_reply(), at, 1)), Catch::Contains("reserved"));
  }
}

TEST_CASE("any other SCSI command is refused") {
  for (int opcode = 0; opcode < 256; ++opcode) {
    if (opcode == 0x5e || opcode == 0x5f) continue;
    CHECK_THAT(error_of_request(changed(good_request(), 16, opcode)),
               Catch::Contains("not for the reservation broker"));
  }
}

TEST_CASE("PERSISTENT RESERVE IN with parameters is refused") {
  CHECK_THAT(error_of_request(changed(good_request(), 16, 0x5e)),
             Catch::Contains("no parameter list"));
}

TEST_CASE("a refusal with a status, with sense or without a text is refused") {
  const Message good = encode_reply({.refusal = "no"});
  CHECK(error_of_reply(changed(good, 7, 2)) != "");
  CHECK(error_of_reply(encode_reply({.refusal = ""})) == "");  // that is no refusal
  CHECK(error_of_reply(changed(encode_reply({}), 6, 1)) != "");
  CHECK(error_of_reply(changed(good_reply(), 6, 1)) != "");
}

}  // namespace plumb
