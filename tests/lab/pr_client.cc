// pr-client: sends one PERSISTENT RESERVE command through the reservation broker, as a VM would.
// For tests/lab/cases/reservations.sh, which runs it without capabilities.
//
// Usage: pr-client SOCKET DEVICE in ACTION
//        pr-client SOCKET DEVICE out|out-read-only ACTION TYPE KEY SERVICE_ACTION_KEY [FLAGS]
//        pr-client SOCKET DEVICE direct
// Numbers are hexadecimal. Prints the answer: "good HEX…", "conflict", "check KEY/ASC/ASCQ" or
// "status HEX"; for an error its text, and ends with 1. "direct" prints what the kernel says to
// READ KEYS of the process itself.
#include <fcntl.h>
#include <fmt/core.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>

#include <charconv>
#include <cstring>
#include <string_view>

#include "base/endian.h"
#include "base/file.h"
#include "rdm/reservation_client.h"

namespace plumb {
namespace {

uint64_t hex(std::string_view text) {
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number, 16);
  return number;
}

ReservationRequest command(std::span<char*> words) {
  ReservationRequest request;
  request.cdb[1] = static_cast<std::byte>(hex(words[1]));
  if (std::string_view(words[0]) == "in") {
    request.cdb[0] = std::byte{kPersistentReserveIn};
    store_be<uint16_t>(request.cdb.data() + 7, 4096);
    return request;
  }
  request.cdb[0] = std::byte{kPersistentReserveOut};
  request.cdb[2] = static_cast<std::byte>(hex(words[2]));
  request.parameters.resize(24);
  store_be<uint32_t>(request.cdb.data() + 5, 24);
  store_be(request.parameters.data(), hex(words[3]));
  store_be(request.parameters.data() + 8, hex(words[4]));
  if (words.size() > 5) request.parameters[20] = static_cast<std::byte>(hex(words[5]));
  return request;
}

void print(const ReservationReply& reply) {
  switch (reply.status) {
    case ScsiStatus::kGood:
      fmt::print("good");
      for (const std::byte byte : reply.data) fmt::print(" {:02x}", byte);
      break;
    case ScsiStatus::kReservationConflict:
      fmt::print("conflict");
      break;
    case ScsiStatus::kCheckCondition:
      if (reply.sense.size() < 14) {
        fmt::print("check without sense");
      } else {
        fmt::print("check {:02x}/{:02x}/{:02x}", reply.sense[2], reply.sense[12], reply.sense[13]);
      }
      break;
    case ScsiStatus::kBusy:
      fmt::print("status {:02x}", static_cast<unsigned>(reply.status));
      break;
  }
  fmt::print("\n");
}

Result<> run(std::span<char*> words) {
  const std::string_view verb = words[2];
  const bool writable = verb == "out" || verb == "direct";
  const UniqueFd lun = TRY(open_file("device", words[1], writable ? O_RDWR : O_RDONLY));
  if (verb == "direct") {
    unsigned char cdb[kPrCdbBytes] = {kPersistentReserveIn};
    sg_io_hdr header{};
    header.interface_id = 'S';
    header.dxfer_direction = SG_DXFER_NONE;
    header.cmd_len = sizeof(cdb);
    header.cmdp = cdb;
    fmt::print("{}\n", ::ioctl(lun.get(), SG_IO, &header) < 0 ? std::strerror(errno) : "done");
    return {};
  }
  const ReservationRequest request = command(words.subspan(2));
  ReservationClient client([&] { return connect_to_broker(words[0]); });
  print(TRY(client.execute(lun.get(), request.cdb, request.parameters)));
  return {};
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  const std::span words(argv + 1, static_cast<size_t>(argc - 1));
  const bool out = words.size() > 2 && std::string_view(words[2]).starts_with("out");
  const bool direct = words.size() > 2 && std::string_view(words[2]) == "direct";
  if (words.size() < (out ? 7U : direct ? 3U : 4U)) {
    fmt::print(stderr, "usage: pr-client SOCKET DEVICE in|out|out-read-only|direct…\n");
    return 2;
  }
  plumb::Result<> done = plumb::run(words);
  if (done) return 0;
  fmt::print("{}\n", done.error().message);
  return 1;
}
