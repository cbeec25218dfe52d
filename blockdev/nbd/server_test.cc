#include "blockdev/nbd/server.h"

#include <sys/socket.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>

#include "base/endian.h"
#include "base/unix_socket.h"
#include "blockdev/mem_device.h"
#include "blockdev/nbd/protocol.h"
#include "tests/temporary_folder.h"

namespace plumb::nbd {
namespace {

constexpr uint64_t kSize = (uint64_t{1} << 20U) + 512;

// Fails what touches its last block, keeps reads back while it is asked to.
class TestDevice final : public BlockDevice {
 public:
  explicit TestDevice(IoThread& thread)
      : memory_({.size_bytes = kSize, .read_only = true}, thread), thread_(thread) {
    std::vector<std::byte>& bytes = memory_.bytes();
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = at(i);
  }
  static std::byte at(uint64_t offset) { return static_cast<std::byte>(offset / 512 + offset); }

  const BlockInfo& info() const override { return memory_.info(); }
  void submit(BlockRequest& request) override {
    if (held_) {
      kept_.push_back(&request);
    } else {
      memory_.submit(request);
    }
  }
  void hold() {
    thread_.run([this] { held_ = true; });
  }
  // Lets go in the order of the last first, each failed when `error` is set.
  void release(int error = 0) {
    thread_.run([this, error] {
      held_ = false;
      for (; !kept_.empty(); kept_.pop_back()) {
        BlockRequest& request = *kept_.back();
        if (error == 0) {
          memory_.submit(request);
          continue;
        }
        thread_.post([&request, error] {
          request.error = error;
          request.done(request);
        });
      }
    });
  }
  size_t kept() {
    size_t count = 0;
    thread_.run([&] { count = kept_.size(); });
    return count;
  }

 private:
  MemDevice memory_;
  IoThread& thread_;
  bool held_ = false;
  std::vector<BlockRequest*> kept_;
};

class Client {
 public:
  explicit Client(const std::string& path) : fd_(connect_unix(path).value()) {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};  // so that a fault ends the test
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }

  void send(const Bytes& what) const {
    REQUIRE(::send(fd_.get(), what.data(), what.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(what.size()));
  }
  void send_until_full() const {
    const Bytes much(1U << 20U);
    size_t sent = 0;
    ssize_t now = 0;
    while ((now = ::send(fd_.get(), much.data(), much.size(), MSG_DONTWAIT)) > 0) {
      sent += static_cast<size_t>(now);
      REQUIRE(sent < 64 * much.size());
    }
  }
  Bytes receive(size_t size) const {
    if (size == 0) return {};
    Bytes got(size);
    REQUIRE(::recv(fd_.get(), got.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size));
    return got;
  }
  // The server has ended the connection, with nothing more to say.
  bool ended() const {
    std::byte byte{};
    const ssize_t got = ::recv(fd_.get(), &byte, 1, 0);
    return got == 0 || (got < 0 && errno == ECONNRESET);
  }

  void greet(uint32_t flags = kFixedNewstyle | kNoZeroes) const {
    CHECK(receive(18) == greeting());
    Bytes answer(4);
    store_be(answer.data(), flags);
    send(answer);
  }
  void option(uint32_t number, const Bytes& data = {}) const {
    Bytes message(16);
    store_be(message.data(), uint64_t{0x49484156454f5054});
    store_be(message.data() + 8, number);
    store_be(message.data() + 12, static_cast<uint32_t>(data.size()));
    message.insert(message.end(), data.begin(), data.end());
    send(message);
  }
  struct Reply {
    uint32_t option = 0, type = 0;
    Bytes data;
  };
  Reply reply() const {
    const Bytes head = receive(20);
    CHECK(load_be<uint64_t>(head.data()) == 0x0003e889045565a9);
    return {load_be<uint32_t>(head.data() + 8), load_be<uint32_t>(head.data() + 12),
            receive(load_be<uint32_t>(head.data() + 16))};
  }
  static Bytes query(const std::string& name) {
    Bytes data(4);
    store_be(data.data(), static_cast<uint32_t>(name.size()));
    for (const char letter : name) data.push_back(static_cast<std::byte>(letter));
    data.resize(data.size() + 2);
    return data;
  }
  void go(const std::string& name = "disk") const {
    greet();
    option(kOptGo, query(name));
    CHECK(reply().type == kRepInfo);
    CHECK(reply().type == kRepInfo);
    CHECK(reply().type == kRepAck);
  }

  void request(uint16_t command, uint64_t cookie, uint64_t offset, uint32_t length,
               uint16_t flags = 0) const {
    Bytes message(28);
    store_be(message.data(), uint32_t{0x25609513});
    store_be(message.data() + 4, flags);
    store_be(message.data() + 6, command);
    store_be(message.data() + 8, cookie);
    store_be(message.data() + 16, offset);
    store_be(message.data() + 24, length);
    send(message);
  }
  struct Answer {
    uint64_t cookie = 0;
    uint32_t error = 0;
  };
  Answer answer() const {
    const Bytes head = receive(16);
    CHECK(load_be<uint32_t>(head.data()) == 0x67446698);
    return {load_be<uint64_t>(head.data() + 8), load_be<uint32_t>(head.data() + 4)};
  }
  uint32_t error_of(uint16_t command, uint64_t offset, uint32_t length, uint16_t flags = 0) const {
    request(command, 5, offset, length, flags);
    const Answer got = answer();
    CHECK(got.cookie == 5);
    return got.error;
  }
  void check_content(uint64_t offset, uint32_t length) const {
    const Bytes got = receive(length);
    size_t wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) wrong += got[i] == TestDevice::at(offset + i) ? 0 : 1;
    CHECK(wrong == 0);
  }
  void check_read(uint64_t offset, uint32_t length) const {
    CAPTURE(offset, length);
    REQUIRE(error_of(kRead, offset, length) == 0);
    check_content(offset, length);
  }

 private:
  const UniqueFd fd_;
};

struct Served {
  TemporaryFolder folder;
  std::string path = folder.path() + "/socket";
  std::unique_ptr<IoThread> thread = IoThread::start({.name = "io-nbd"}).value();
  TestDevice device{*thread};
  std::unique_ptr<Server> server =
      std::make_unique<Server>(Server::Config{.listener = listen_unix(path, 16).value(),
                                              .name = "disk",
                                              .device = device,
                                              .thread = *thread});
};

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
  client.check_read(0, 4096);
  client.check_read(1, 1);
  client.check_read(4095, 8194);
  client.check_read(kSize - 1, 1);
  client.check_read(kSize - 513, 513);
  client.check_read(0, kSize);
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
  client.check_read(512, 512);
}

TEST_CASE("options are answered until the client goes on") {
  Served served;
  const Client client(served.path);
  client.greet();
  client.option(8);  // structured replies
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
  client.check_read(0, 512);
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
  CHECK(client.error_of(4, 0, 512) == kInvalid);  // trim
  CHECK(client.error_of(0xffff, 0, 512) == kInvalid);
  CHECK(client.error_of(kFlush, 0, 0) == 0);
  client.request(kWrite, 9, 0, 70'000);
  client.send(Bytes(70'000, std::byte{0x55}));
  CHECK(client.answer().error == kPerm);
  client.check_read(0, 4096);
}

TEST_CASE("an error of the device is that of its read alone") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device.hold();
  client.request(kRead, 1, 0, 512);
  while (served.device.kept() < 1) std::this_thread::yield();
  served.device.release(ENODEV);
  CHECK(client.answer().error == 5);
  client.check_read(0, 512);
}

TEST_CASE("requests are answered as they end") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device.hold();
  constexpr uint64_t kRequests = 100;
  for (uint64_t i = 0; i < kRequests; ++i) client.request(kRead, i, i * 512, 512);
  while (served.device.kept() < kRequests) std::this_thread::yield();
  const Client other(served.path);
  other.go();
  CHECK(other.error_of(kFlush, 0, 0) == 0);
  served.device.release();
  for (uint64_t i = kRequests; i-- > 0;) {
    CHECK(client.answer().cookie == i);
    client.check_content(i * 512, 512);
  }
}

TEST_CASE("who disconnects gets the answers to what was asked before") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device.hold();
  client.request(kRead, 1, 512, 4096);
  client.request(kFlush, 2, 0, 0);
  client.request(kDisconnect, 3, 0, 0);
  client.request(kRead, 4, 0, 512);  // nobody may, and it is not answered
  CHECK(client.answer().cookie == 2);
  served.device.release();
  CHECK(client.answer().cookie == 1);
  client.check_content(512, 4096);
  CHECK(client.ended());
}

TEST_CASE("what comes after a disconnection is not taken") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device.hold();
  client.request(kRead, 1, 0, 512);
  client.request(kDisconnect, 2, 0, 0);
  while (served.device.kept() < 1) std::this_thread::yield();
  // As much as the socket takes, and no more, however long the device takes.
  client.send_until_full();
  served.device.release();
  CHECK(client.answer().cookie == 1);
  client.check_content(0, 512);
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
  good.check_read(0, 512);
}

TEST_CASE("a client that reads no answers is not read from, and harms nobody") {
  Served served;
  const Client lazy(served.path);
  lazy.go();
  served.device.hold();
  // As much as a connection may hold, and one more, which is not taken yet.
  const uint64_t most = Server::kMaxHeldBytes / (uint64_t{1} << 20U);
  for (uint64_t i = 0; i < most + 10; ++i) lazy.request(kRead, i, 0, 1U << 20U);
  while (served.device.kept() < most) std::this_thread::yield();
  const Client other(served.path);
  other.go();
  CHECK(other.error_of(kFlush, 0, 0) == 0);
  CHECK(served.device.kept() == most);
  served.device.release();
  other.check_read(0, 4096);
  // When it reads at last it gets all.
  for (uint64_t i = 0; i < most + 10; ++i) {
    CHECK(lazy.answer().error == 0);
    lazy.check_content(0, 1U << 20U);
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
  clients.back()->check_read(0, 512);
}

TEST_CASE("a server that ends waits for what is at the device") {
  Served served;
  const Client client(served.path);
  client.go();
  served.device.hold();
  for (uint64_t i = 0; i < 10; ++i) client.request(kRead, i, 0, 65536);
  while (served.device.kept() < 10) std::this_thread::yield();
  std::jthread ending([&served] { served.server.reset(); });
  CHECK(client.ended());
  served.device.release();
}

}  // namespace plumb::nbd
