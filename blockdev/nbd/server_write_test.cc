// Exports that may be written.
#include <catch2/catch.hpp>
#include <thread>

#include "blockdev/nbd/protocol.h"
#include "blockdev/nbd/server.h"
#include "tests/fakes/nbd_client.h"
#include "tests/fakes/nbd_served.h"

namespace plumb::nbd {
namespace {

using Client = NbdClient;
using Seen = HoldingDevice::Seen;

constexpr uint32_t kPerm = 1;
constexpr uint32_t kInvalid = 22;
constexpr uint32_t kNoSpace = 28;

NbdServed::Config writable(CacheMode cache = CacheMode::kWriteback) {
  NbdServed::Config config;
  config.info = {.size_bytes = kServedBytes,
                 .max_discard_bytes = 65536,
                 .max_write_zeroes_bytes = 65536,
                 .volatile_cache = true};
  config.served.writable = true;
  config.cache = cache;
  return config;
}

Bytes filled(size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

uint16_t flags_of(const Client& client) {
  client.greet();
  client.option(kOptGo, Client::query("disk"));
  const uint16_t flags = load_be<uint16_t>(client.reply().data.data() + 10);
  client.reply();
  client.reply();
  return flags;
}

}  // namespace

TEST_CASE("what is written is read again, by every client") {
  NbdServed served(writable());
  const Client client(served.path);
  client.go();
  CHECK(client.error_of_write(512, filled(1024, 7)) == 0);
  CHECK(client.error_of_write(kServedBytes - 512, filled(512, 8)) == 0);
  const Client other(served.path);
  other.go();
  CHECK(other.error_of(kRead, 1024, 1024) == 0);
  Bytes expected = filled(512, 7);
  for (size_t i = 1536; i < 2048; ++i) expected.push_back(HoldingDevice::at(i));
  CHECK(other.receive(1024) == expected);
  CHECK(other.error_of(kRead, kServedBytes - 1, 1) == 0);
  CHECK(other.receive(1) == filled(1, 8));
}

TEST_CASE("large writes arrive whole, and requests behind them too") {
  NbdServed served(writable());
  const Client client(served.path);
  client.go();
  client.request(kWrite, 1, 0, 1U << 20U);
  Bytes data(1U << 20U);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 31 / 7);
  client.send(Bytes(data.begin(), data.begin() + 100'000));
  client.send(Bytes(data.begin() + 100'000, data.end()));
  CHECK(client.answer().error == 0);
  CHECK(client.error_of(kFlush, 0, 0) == 0);
  CHECK(client.error_of(kRead, 0, 1U << 20U) == 0);
  CHECK(client.receive(data.size()) == data);
}

TEST_CASE("a write is durable where that is asked for, or where the disk always is") {
  NbdServed served(writable());
  const Client client(served.path);
  client.go();
  client.error_of_write(0, filled(512, 1));
  client.error_of_write(512, filled(512, 1), kFua);
  CHECK(client.error_of(kFlush, 0, 0) == 0);
  CHECK(served.device->seen() == std::vector<Seen>{{BlockOp::kWrite, 0, 512, false, false},
                                                   {BlockOp::kWrite, 512, 512, true, false},
                                                   {BlockOp::kFlush, 0, 0, false, false}});
  NbdServed through(writable(CacheMode::kWritethrough));
  const Client other(through.path);
  other.go();
  other.error_of_write(0, filled(512, 1));
  CHECK(through.device->seen() == std::vector<Seen>{{BlockOp::kWrite, 0, 512, true, false}});
}

TEST_CASE("ranges are zeroed and trimmed in what the disk takes at a time") {
  NbdServed served(writable());
  const Client client(served.path);
  client.go();
  CHECK(client.error_of(kWriteZeroes, 512, 65536 + 1024, kNoHole) == 0);
  CHECK(served.device->seen() ==
        std::vector<Seen>{{BlockOp::kWriteZeroes, 512, 65536, false, false},
                          {BlockOp::kWriteZeroes, 66048, 1024, false, false}});
  CHECK(client.error_of(kRead, 0, 512 + 65536 + 1024 + 512) == 0);
  const Bytes got = client.receive(512 + 65536 + 1024 + 512);
  CHECK(got[511] == HoldingDevice::at(511));
  CHECK(Bytes(got.begin() + 512, got.end() - 512) == Bytes(65536 + 1024));
  CHECK(got[512 + 66560] == HoldingDevice::at(512 + 66560));
  served.device->seen();
  CHECK(client.error_of(kTrim, 0, 131072, kFua) == 0);
  CHECK(served.device->seen() == std::vector<Seen>{{BlockOp::kDiscard, 0, 65536, true, true},
                                                   {BlockOp::kDiscard, 65536, 65536, true, true}});
  CHECK(client.error_of(kWriteZeroes, 0, 512) == 0);
  CHECK(served.device->seen() == std::vector<Seen>{{BlockOp::kWriteZeroes, 0, 512, false, true}});
}

TEST_CASE("writes that cannot be are errors, their data is passed over, and others go on") {
  NbdServed served(writable());
  const Client client(served.path);
  client.go();
  const std::vector<std::byte> before = served.device->bytes();
  CHECK(client.error_of_write(1, filled(512, 9)) == kInvalid);
  CHECK(client.error_of_write(0, filled(511, 9)) == kInvalid);
  CHECK(client.error_of_write(0, {}) == kInvalid);
  CHECK(client.error_of_write(kServedBytes, filled(512, 9)) == kNoSpace);
  CHECK(client.error_of_write(UINT64_MAX - 511, filled(512, 9)) == kNoSpace);
  CHECK(client.error_of_write(0, filled(512, 9), kNoHole) == kInvalid);
  CHECK(client.error_of_write(0, filled(Server::kMaxRequestBytes + 512, 9)) == kInvalid);
  CHECK(client.error_of(kWriteZeroes, 0, UINT32_MAX) == kNoSpace);
  CHECK(client.error_of(kWriteZeroes, 0, 512, 1U << 4U) == kInvalid);  // FAST_ZERO
  CHECK(client.error_of(kTrim, 512, UINT32_MAX) == kInvalid);
  CHECK(client.error_of(kTrim, 1, 512) == kInvalid);
  CHECK(served.device->bytes() == before);
  CHECK(client.error_of_write(0, filled(512, 9)) == 0);
}

TEST_CASE("an error in a range ends it, and the rest is left") {
  NbdServed served(writable());
  const Client client(served.path);
  client.go_structured();
  served.device->hold();
  client.request(kWriteZeroes, 1, 512, 131072);
  while (served.device->kept() < 1) std::this_thread::yield();
  served.device->seen();
  served.device->release(ENOSPC);
  const Client::Chunk chunk = client.chunk();
  CHECK(chunk.type == Client::kErrorOffset);
  CHECK(chunk.error() == kNoSpace);
  CHECK(chunk.error_offset() == 512);
  CHECK(served.device->seen().empty());
}

TEST_CASE("a client that goes in the middle of a write has written nothing") {
  NbdServed served(writable());
  const std::vector<std::byte> before = served.device->bytes();
  {
    const Client client(served.path);
    client.go();
    client.request(kWrite, 1, 0, 8192);
    client.send(filled(4096, 9));
    ::shutdown(client.fd(), SHUT_WR);
    CHECK(client.ended());
  }
  const Client other(served.path);
  other.go();
  CHECK(other.error_of(kFlush, 0, 0) == 0);
  CHECK(served.device->bytes() == before);
}

TEST_CASE("the largest write is taken, though it is all that may be held") {
  NbdServed::Config config = writable();
  config.info.size_bytes = Server::kMaxRequestBytes;
  NbdServed served(config);
  const Client client(served.path);
  client.go();
  CHECK(client.error_of_write(0, filled(Server::kMaxRequestBytes, 3)) == 0);
  CHECK(served.device->bytes() == filled(Server::kMaxRequestBytes, 3));
}

TEST_CASE("what an export offers is what its disk can do, and whether it may be written") {
  CHECK(flags_of(Client(NbdServed(writable()).path)) ==
        (kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kMultiConnection));
  NbdServed::Config plain = writable();
  plain.info.max_discard_bytes = plain.info.max_write_zeroes_bytes = 0;
  NbdServed bare(plain);
  CHECK(flags_of(Client(bare.path)) == (kHasFlags | kSendFlush | kSendFua | kMultiConnection));
  NbdServed::Config closed = writable();
  closed.served.writable = false;
  NbdServed kept(closed);
  const Client client(kept.path);
  CHECK(flags_of(client) == (kHasFlags | kReadOnly | kSendFlush | kMultiConnection));
  CHECK(client.error_of_write(0, filled(512, 9)) == kPerm);
  CHECK(client.error_of(kWriteZeroes, 0, 512) == kPerm);
  CHECK(client.error_of(kTrim, 0, 512) == kPerm);
  CHECK(kept.device->seen().empty());
}

}  // namespace plumb::nbd
