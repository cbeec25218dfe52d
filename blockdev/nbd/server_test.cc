#include "blockdev/nbd/server.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <semaphore>
#include <thread>

#include "base/endian.h"
#include "blockdev/nbd/protocol.h"
#include "tests/fakes/nbd_client.h"
#include "tests/fakes/nbd_served.h"

namespace plumb::nbd {
namespace {

using Client = NbdClient;
using Served = NbdServed;
constexpr uint64_t kSize = kServedBytes;
constexpr uint32_t kStripe = 65536;

void check_content(const Client& client, uint64_t offset, uint32_t length) {
  const Bytes got = client.receive(length);
  size_t wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) wrong += got[i] == HoldingDevice::at(offset + i) ? 0 : 1;
  CHECK(wrong == 0);
}

void check_read(const Client& client, uint64_t offset, uint32_t length) {
  CAPTURE(offset, length);
  REQUIRE(client.error_of(kRead, offset, length) == 0);
  check_content(client, offset, length);
}

}  // namespace

TEST_CASE("a client that asks with GO reads what is there, wherever it begins and ends") {
  Served served;
  const Client client(served.path);
  client.greet();
  client.option(kOptGo, Client::query(GENERATE("disk", "")));
  const Client::Reply facts = client.reply();
  CHECK(facts.type == kRepInfo);
  REQUIRE(facts.data.size() == 12);
  CHECK(load_be<uint64_t>(facts.data.data() + 2) == kSize);
  CHECK((load_be<uint16_t>(facts.data.data() + 10) & (kHasFlags | kReadOnly)) ==
        (kHasFlags | kReadOnly));
  CHECK(client.reply().type == kRepInfo);
  CHECK(client.reply().type == kRepAck);
  check_read(client, 0, 4096);
  check_read(client, 1, 1);
  check_read(client, 4095, 8194);
  check_read(client, kSize - 1, 1);
  check_read(client, kSize - 513, 513);
  check_read(client, 0, kSize);
  client.request(kDisconnect, 0, 0, 0);
  CHECK(client.ended());
}

TEST_CASE("a client that knows only the export's name is served") {
  Served served;
  const bool no_zeroes = GENERATE(false, true);
  const Client client(served.path);
  client.greet(no_zeroes ? kFixedNewstyle | kNoZeroes : 0);
  client.option(kOptExportName, {std::byte{'d'}, std::byte{'i'}, std::byte{'s'}, std::byte{'k'}});
  CHECK(load_be<uint64_t>(client.receive(10).data()) == kSize);
  if (!no_zeroes) CHECK(client.receive(124) == Bytes(124));
  check_read(client, 512, 512);
}

TEST_CASE("options are answered until the client goes on") {
  Served served;
  const Client client(served.path);
  client.greet();
  client.option(11);  // extended headers
  CHECK(client.reply().type == kRepErrUnsupported);
  client.option(0x12345678, Bytes(5000));
  CHECK(client.reply().type == kRepErrUnsupported);
  client.option(kOptList);
  const Client::Reply listed = client.reply();
  CHECK(listed.type == kRepServer);
  CHECK(listed.data.size() == 4 + 4);
  CHECK(client.reply().type == kRepAck);
  client.option(kOptList, Bytes(1));
  CHECK(client.reply().type == kRepErrInvalid);
  client.option(kOptInfo, Client::query("other"));
  CHECK(client.reply().type == kRepErrUnknown);
  client.option(kOptGo, Bytes(3));
  CHECK(client.reply().type == kRepErrInvalid);
  client.option(kOptInfo, Client::query("disk"));
  for (const uint32_t type : {kRepInfo, kRepInfo, kRepAck}) CHECK(client.reply().type == type);
  client.option(kOptGo, Client::query("disk"));
  for (const uint32_t type : {kRepInfo, kRepInfo, kRepAck}) CHECK(client.reply().type == type);
  check_read(client, 0, 512);
}

TEST_CASE("a client that gives up is told so") {
  Served served;
  const Client client(served.path);
  client.greet();
  client.option(kOptAbort);
  CHECK(client.reply().type == kRepAck);
  CHECK(client.ended());
}

TEST_CASE("what cannot be done is an error, and the connection goes on") {
  constexpr uint32_t kPerm = 1;
  constexpr uint32_t kInvalid = 22;
  Served served;
  const Client client(served.path);
  client.go();
  CHECK(client.error_of(kRead, kSize, 1) == kInvalid);
  CHECK(client.error_of(kRead, kSize - 1, 2) == kInvalid);
  CHECK(client.error_of(kRead, UINT64_MAX, 2) == kInvalid);
  CHECK(client.error_of(kRead, UINT64_MAX - 511, 512) == kInvalid);
  CHECK(client.error_of(kRead, 0, 0) == kInvalid);
  CHECK(client.error_of(kRead, 0, Server::kMaxRequestBytes + 1) == kInvalid);
  CHECK(client.error_of(kRead, 0, UINT32_MAX) == kInvalid);
  CHECK(client.error_of(kRead, 0, 512, 1) == kInvalid);
  CHECK(client.error_of(kTrim, 0, 512) == kPerm);
  CHECK(client.error_of(0xffff, 0, 512) == kInvalid);
  CHECK(client.error_of(kFlush, 0, 0) == 0);
  client.request(kWrite, 9, 0, 70'000);
  client.send(Bytes(70'000, std::byte{0x55}));
  CHECK(client.answer().error == kPerm);
  check_read(client, 0, 4096);
}

TEST_CASE("an error of the device is that of its read alone") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device->hold();
  client.request(kRead, 1, 0, 512);
  while (served.device->kept() < 1) std::this_thread::yield();
  served.device->release(ENODEV);
  CHECK(client.answer().error == 5);
  check_read(client, 0, 512);
}

TEST_CASE("requests are answered as they end") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device->hold();
  constexpr uint64_t kRequests = 100;
  for (uint64_t i = 0; i < kRequests; ++i) client.request(kRead, i, i * 512, 512);
  while (served.device->kept() < kRequests) std::this_thread::yield();
  const Client other(served.path);
  other.go();
  CHECK(other.error_of(kFlush, 0, 0) == 0);
  served.device->release();
  for (uint64_t i = kRequests; i-- > 0;) {
    CHECK(client.answer().cookie == i);
    check_content(client, i * 512, 512);
  }
}

TEST_CASE("who disconnects gets the answers to what was asked before") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device->hold();
  client.request(kRead, 1, 512, 4096);
  client.request(kFlush, 2, 0, 0);
  client.request(kDisconnect, 3, 0, 0);
  client.request(kRead, 4, 0, 512);  // nobody may, and it is not answered
  CHECK(client.answer().cookie == 2);
  served.device->release();
  CHECK(client.answer().cookie == 1);
  check_content(client, 512, 4096);
  CHECK(client.ended());
}

TEST_CASE("what comes after a disconnection is not taken") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device->hold();
  client.request(kRead, 1, 0, 512);
  client.request(kDisconnect, 2, 0, 0);
  while (served.device->kept() < 1) std::this_thread::yield();
  // As much as the socket takes, and no more, however long the device takes.
  client.send_until_full();
  served.device->release();
  CHECK(client.answer().cookie == 1);
  check_content(client, 0, 512);
  CHECK(client.ended());
}

TEST_CASE("what makes no sense ends its connection, and no other") {
  Served served;
  const Client good(served.path);
  good.go();
  const auto bad = GENERATE(0, 1, 2, 3, 4);
  const Client client(served.path);
  CAPTURE(bad);
  if (bad == 0) {
    client.greet(0x80);
  } else if (bad == 1) {
    client.greet();
    client.send(Bytes(16, std::byte{0xff}));
  } else if (bad == 2) {
    client.greet();
    client.option(kOptExportName, Bytes(4, std::byte{'x'}));
  } else if (bad == 3) {
    client.go();
    client.send(Bytes(28, std::byte{0xff}));
  } else {
    client.greet();
    Bytes giant(16, std::byte{0xff});
    store_be(giant.data(), uint64_t{0x49484156454f5054});
    client.send(giant);
  }
  CHECK(good.error_of(kFlush, 0, 0) == 0);
  CHECK(client.ended());
  check_read(good, 0, 512);
}

TEST_CASE("a client that reads no answers is not read from, and harms nobody") {
  Served served;
  const Client lazy(served.path);
  lazy.go();
  served.device->hold();
  // As much as a connection may hold, and one more, which is not taken yet.
  const uint64_t most = Server::kMaxHeldBytes / (uint64_t{1} << 20U);
  for (uint64_t i = 0; i < most + 10; ++i) lazy.request(kRead, i, 0, 1U << 20U);
  while (served.device->kept() < most) std::this_thread::yield();
  const Client other(served.path);
  other.go();
  CHECK(other.error_of(kFlush, 0, 0) == 0);
  CHECK(served.device->kept() == most);
  served.device->release();
  check_read(other, 0, 4096);
  // When it reads at last it gets all.
  for (uint64_t i = 0; i < most + 10; ++i) {
    CHECK(lazy.answer().error == 0);
    check_content(lazy, 0, 1U << 20U);
  }
}

TEST_CASE("so many clients are served, and no more, until one has gone") {
  Served served;
  std::vector<std::unique_ptr<Client>> clients;
  for (size_t i = 0; i < Server::kMaxConnections; ++i) {
    clients.push_back(std::make_unique<Client>(served.path));
    clients.back()->go();
  }
  CHECK(Client(served.path).ended());
  clients.front()->request(kDisconnect, 0, 0, 0);
  CHECK(clients.front()->ended());
  Client(served.path).go();
  check_read(*clients.back(), 0, 512);
}

TEST_CASE("clients that only connect keep nobody out") {
  Served served;
  const Client good(served.path);
  good.go();
  std::vector<std::unique_ptr<Client>> silent;
  for (size_t i = 1; i < Server::kMaxConnections; ++i) {
    silent.push_back(std::make_unique<Client>(served.path));
    CHECK(silent.back()->receive(18) == greeting());
  }
  const Client other(served.path);
  other.go();
  CHECK(silent.front()->ended());
  check_read(other, 0, 512);
  check_read(good, 0, 512);
}

TEST_CASE("a server that ends waits for what is at the device") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device->hold();
  for (uint64_t i = 0; i < 10; ++i) client.request(kRead, i, 0, 65536);
  while (served.device->kept() < 10) std::this_thread::yield();
  std::jthread ending([&served] { served.server.reset(); });
  CHECK(client.ended());
  served.device->release();
}

// ---- structured replies ----

namespace {

// The first, third, … 64 KiB are holes; the device says otherwise, so that who reads it is found
// out.
class Stripes final : public ExtentSource {
 public:
  Result<> describe(uint64_t offset, ExtentList& list) override {
    if (fails_) return failed("nobody knows");
    while (true) {
      const uint64_t stripe = offset / kStripe;
      const uint64_t length = (stripe + 1) * kStripe - offset;
      if (!list.add(length, stripe % 2 == 0 ? kHole | kZero : 0)) return {};
      offset += length;
    }
  }
  bool fails_ = false;
};

Served::Config striped(Stripes& stripes) {
  Served::Config config;
  config.served.allocation = &stripes;
  return config;
}

void check_bytes(const Bytes& payload, uint64_t offset) {
  size_t wrong = 0;
  for (size_t i = 8; i < payload.size(); ++i) {
    wrong += payload[i] == HoldingDevice::at(offset + i - 8) ? 0 : 1;
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("holes are sent as holes, and are not read") {
  Stripes stripes;
  Served served(striped(stripes));
  const Client client(served.path);
  client.go_structured();
  client.request(kRead, 7, kStripe - 100, 3 * kStripe);
  const struct {
    uint16_t type;
    uint64_t offset;
    uint32_t length;
  } expected[] = {{Client::kHoleChunk, kStripe - 100, 100},
                  {Client::kData, kStripe, kStripe},
                  {Client::kHoleChunk, 2 * kStripe, kStripe},
                  {Client::kData, 3 * kStripe, kStripe - 100}};
  for (const auto& one : expected) {
    const Client::Chunk chunk = client.chunk();
    CHECK(chunk.type == one.type);
    CHECK(chunk.cookie == 7);
    CHECK(chunk.offset() == one.offset);
    CHECK(chunk.done == (one.offset == 3 * kStripe));
    if (one.type == Client::kHoleChunk) {
      CHECK(chunk.hole_bytes() == one.length);
    } else {
      CHECK(chunk.payload.size() == 8 + one.length);
      check_bytes(chunk.payload, one.offset);
    }
  }
  CHECK(served.device->seen().size() == 2);
  client.request(kRead, 8, 0, kStripe);
  const Client::Chunk hole = client.chunk();
  CHECK(hole.type == Client::kHoleChunk);
  CHECK(hole.done);
  CHECK(served.device->seen().empty());
}

TEST_CASE("a read that must not be cut up is one chunk, with its holes as bytes") {
  Stripes stripes;
  Served served(striped(stripes));
  const Client client(served.path);
  client.go_structured();
  client.request(kRead, 7, 1, 2 * kStripe, kDoNotFragment);
  const Client::Chunk chunk = client.chunk();
  CHECK(chunk.type == Client::kData);
  CHECK(chunk.done);
  CHECK(chunk.payload.size() == 8 + 2 * kStripe);
  check_bytes(chunk.payload, 1);
}

TEST_CASE("a read of more extents than are looked at is answered whole") {
  class Confetti final : public ExtentSource {
    Result<> describe(uint64_t offset, ExtentList& list) override {
      while (list.add(512 - offset % 512, offset / 512 % 2 == 0 ? kHole | kZero : 0)) {
        offset += 512 - offset % 512;
      }
      return {};
    }
  };
  Confetti confetti;
  Served::Config config;
  config.served.allocation = &confetti;
  Served served(config);
  const Client client(served.path);
  client.go_structured();
  client.request(kRead, 7, 0, 1U << 20U);
  uint64_t at = 0;
  size_t chunks = 0;
  for (bool done = false; !done; ++chunks) {
    const Client::Chunk chunk = client.chunk();
    done = chunk.done;
    CHECK(chunk.offset() == at);
    if (chunk.type == Client::kHoleChunk) {
      at += chunk.hole_bytes();
    } else {
      check_bytes(chunk.payload, at);
      at += chunk.payload.size() - 8;
    }
  }
  CHECK(at == 1U << 20U);
  CHECK(chunks <= Server::kMaxReadExtents + 1);
}

TEST_CASE("where nobody knows the holes all is read") {
  Stripes stripes;
  stripes.fails_ = true;
  Served served(striped(stripes));
  const Client client(served.path);
  client.go_structured({"base:allocation"});
  client.request(kRead, 7, 0, kStripe);
  CHECK(client.chunk().type == Client::kData);
  client.request(kBlockStatus, 8, 0, kStripe);
  CHECK(client.chunk().extents() == std::vector<Extent>{{kStripe, 0}});
}

TEST_CASE("an error says where it was, and what was asked wrong is told") {
  constexpr uint32_t kInvalid = 22;
  Served served;
  const Client client(served.path);
  client.go_structured();
  served.device->hold();
  client.request(kRead, 1, 5000, 512);
  while (served.device->kept() < 1) std::this_thread::yield();
  served.device->release(EIO);
  const Client::Chunk failed_read = client.chunk();
  CHECK(failed_read.type == Client::kErrorOffset);
  CHECK(failed_read.done);
  CHECK(failed_read.error() == 5);
  CHECK(failed_read.error_offset() == 5000);
  client.request(kRead, 2, kSize, 1);
  const Client::Chunk beyond = client.chunk();
  CHECK(beyond.type == Client::kError);
  CHECK(beyond.cookie == 2);
  CHECK(beyond.error() == kInvalid);
  client.request(kWrite, 3, 0, 5000);
  client.send(Bytes(5000));
  CHECK(client.chunk().error() == 1);
  client.request(kBlockStatus, 4, 0, 512);  // no context was set
  CHECK(client.chunk().error() == kInvalid);
  client.request(kFlush, 5, 0, 0);
  const Client::Chunk flushed = client.chunk();
  CHECK(flushed.type == Client::kNone);
  CHECK(flushed.done);
}

// ---- block status ----

TEST_CASE("a dirty bitmap tells the extents that have changed") {
  Stripes stripes;
  BitmapExtents changes({0b1101}, kStripe);
  Served::Config config = striped(stripes);
  config.served.bitmaps = {{.name = "backup-data", .source = &changes}};
  Served served(config);
  const Client client(served.path);
  client.go_structured({"base:allocation", "qemu:dirty-bitmap:backup-data"});
  client.request(kBlockStatus, 9, 0, 4 * kStripe);
  const Client::Chunk allocation = client.chunk();
  CHECK(allocation.type == Client::kStatus);
  CHECK_FALSE(allocation.done);
  CHECK(allocation.extents() ==
        std::vector<Extent>{{kStripe, 3}, {kStripe, 0}, {kStripe, 3}, {kStripe, 0}});
  const Client::Chunk dirty = client.chunk();
  CHECK(dirty.done);
  CHECK(dirty.context() != allocation.context());
  CHECK(dirty.extents() ==
        std::vector<Extent>{{kStripe, kDirty}, {kStripe, 0}, {2 * kStripe, kDirty}});
  client.request(kBlockStatus, 10, kStripe + 512, 4 * kStripe, kReqOne);
  CHECK(client.chunk().extents() == std::vector<Extent>{{kStripe - 512, 0}});
  CHECK(client.chunk().extents() == std::vector<Extent>{{kStripe - 512, 0}});
}

TEST_CASE("an answer has so many extents, and the client asks on") {
  class Grains final : public ExtentSource {
    Result<> describe(uint64_t offset, ExtentList& list) override {
      while (list.add(512, offset / 512 % 2)) offset += 512;
      return {};
    }
  };
  Grains grains;
  Served::Config config;
  config.served.allocation = &grains;
  Served served(config);
  const Client client(served.path);
  client.go_structured({"base:allocation"});
  client.request(kBlockStatus, 9, 0, kSize);
  CHECK(client.chunk().extents().size() == Server::kMaxExtents);
}

TEST_CASE("an export of which nothing is known is data") {
  Served served;
  const Client client(served.path);
  client.go_structured({"base:allocation"});
  client.request(kBlockStatus, 9, 1000, 5000);
  CHECK(client.chunk().extents() == std::vector<Extent>{{5000, 0}});
}

// ---- bounds ----

TEST_CASE("who does not choose in time is cut off, and who has chosen may take its time") {
  Served::Config config;
  config.negotiation_ns = 200'000'000;
  Served served(config);
  const Client good(served.path);
  good.go();
  const Client silent(served.path);
  CHECK(silent.receive(18) == greeting());
  const Client dripping(served.path);
  dripping.greet();
  dripping.send(Bytes(3));
  CHECK(silent.ended());
  CHECK(dripping.ended());
  check_read(good, 0, 512);
}

TEST_CASE("requests at the disk are bounded, and none is lost") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device->hold();
  constexpr size_t kMore = 50;
  for (uint64_t i = 0; i < Server::kMaxRequests + kMore; ++i) client.request(kRead, i, 0, 512);
  while (served.device->kept() < Server::kMaxRequests) std::this_thread::yield();
  const Client other(served.path);
  other.go();
  other.request(kRead, 1, 0, 512);
  while (served.device->kept() < Server::kMaxRequests + 1) std::this_thread::yield();
  // Turns enough for all the others, if they were taken.
  for (size_t i = 0; i < kMore; ++i) CHECK(other.error_of(kFlush, 0, 0) == 0);
  CHECK(served.device->kept() == Server::kMaxRequests + 1);
  served.device->release();
  CHECK(other.answer().error == 0);
  check_content(other, 0, 512);
  for (size_t i = 0; i < Server::kMaxRequests + kMore; ++i) {
    CHECK(client.answer().error == 0);
    check_content(client, 0, 512);
  }
}

TEST_CASE("a client that asks for much is not served before all others") {
  struct Counting final : ExtentSource {
    Result<> describe(uint64_t, ExtentList& list) override {
      ++calls;
      seen_of_other = other == nullptr ? 0 : other->calls;
      list.add(list.length(), 0);
      return {};
    }
    size_t calls = 0;
    size_t seen_of_other = 0;
    const Counting* other = nullptr;
  };
  Counting greedy_source;
  Counting modest_source;
  modest_source.other = &greedy_source;
  Served::Config config;
  config.served.bitmaps = {{.name = "greedy", .source = &greedy_source},
                           {.name = "modest", .source = &modest_source}};
  Served served(config);
  const Client greedy(served.path);
  greedy.go_structured({"qemu:dirty-bitmap:greedy"});
  const Client modest(served.path);
  modest.go_structured({"qemu:dirty-bitmap:modest"});
  // Both have asked before either is looked at.
  constexpr size_t kRequests = 1000;
  std::binary_semaphore asked(0);
  served.thread->post([&asked] { asked.acquire(); });
  Bytes all;  // at once: a socket takes few messages that are small
  for (size_t i = 0; i < kRequests; ++i) {
    const Bytes one = Client::request_message(kBlockStatus, i, 0, 1U << 20U);
    all.insert(all.end(), one.begin(), one.end());
  }
  greedy.send(all);
  modest.request(kBlockStatus, 0, 0, 512);
  asked.release();
  CHECK(modest.chunk().done);
  for (size_t i = 0; i < kRequests; ++i) CHECK(greedy.chunk().cookie == i);
  CHECK(modest_source.seen_of_other < kRequests / 10);
}

}  // namespace plumb::nbd
