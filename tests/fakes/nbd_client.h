// A client of an NBD server that speaks the wire's own words, right or wrong.
#pragma once

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <string>
#include <vector>

#include "base/endian.h"
#include "base/unix_socket.h"
#include "blockdev/nbd/protocol.h"

namespace plumb {

class NbdClient {
 public:
  using Bytes = nbd::Bytes;

  explicit NbdClient(const std::string& path) : fd_(connect_unix(path).value()) {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};  // so that a fault ends the test
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  virtual ~NbdClient() = default;
  NbdClient(const NbdClient&) = delete;
  NbdClient& operator=(const NbdClient&) = delete;

  int fd() const { return fd_.get(); }
  virtual void send(const Bytes& what) const {
    size_t sent = 0;
    while (sent < what.size()) {
      const ssize_t now = ::send(fd_.get(), what.data() + sent, what.size() - sent, MSG_NOSIGNAL);
      REQUIRE(now > 0);
      sent += static_cast<size_t>(now);
    }
  }
  virtual Bytes receive(size_t size) const {
    if (size == 0) return {};
    Bytes got(size);
    REQUIRE(::recv(fd_.get(), got.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size));
    return got;
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
  // The server has ended the connection, with nothing more to say.
  bool ended() const {
    std::byte byte{};
    const ssize_t got = ::recv(fd_.get(), &byte, 1, 0);
    return got == 0 || (got < 0 && errno == ECONNRESET);
  }

  // ---- negotiation ----

  void greet(uint32_t flags = nbd::kFixedNewstyle | nbd::kNoZeroes) const {
    CHECK(receive(18) == nbd::greeting());
    Bytes answer(4);
    store_be(answer.data(), flags);
    send(answer);
  }
  static Bytes option_message(uint32_t number, const Bytes& data = {}) {
    Bytes message(16);
    store_be(message.data(), uint64_t{0x49484156454f5054});
    store_be(message.data() + 8, number);
    store_be(message.data() + 12, static_cast<uint32_t>(data.size()));
    message.insert(message.end(), data.begin(), data.end());
    return message;
  }
  void option(uint32_t number, const Bytes& data = {}) const { send(option_message(number, data)); }
  struct Reply {
    uint32_t option = 0, type = 0;
    Bytes data;
    std::string text(size_t from = 0) const {
      return {reinterpret_cast<const char*>(data.data()) + from, data.size() - from};
    }
  };
  Reply reply() const {
    const Bytes head = receive(20);
    CHECK(load_be<uint64_t>(head.data()) == 0x0003e889045565a9);
    return {load_be<uint32_t>(head.data() + 8), load_be<uint32_t>(head.data() + 12),
            receive(load_be<uint32_t>(head.data() + 16))};
  }
  static void add_text(Bytes& to, const std::string& text) {
    const size_t at = to.size();
    to.resize(at + 4);
    store_be(to.data() + at, static_cast<uint32_t>(text.size()));
    for (const char letter : text) to.push_back(static_cast<std::byte>(letter));
  }
  static Bytes query(const std::string& name) {
    Bytes data;
    add_text(data, name);
    data.resize(data.size() + 2);
    return data;
  }
  static Bytes meta_query(const std::string& name, const std::vector<std::string>& queries) {
    Bytes data;
    add_text(data, name);
    data.resize(data.size() + 4);
    store_be(data.data() + data.size() - 4, static_cast<uint32_t>(queries.size()));
    for (const std::string& one : queries) add_text(data, one);
    return data;
  }
  void go(const std::string& name = "disk") const {
    greet();
    choose(name);
  }
  // After greet(), and other options.
  void choose(const std::string& name = "disk") const {
    option(nbd::kOptGo, query(name));
    CHECK(reply().type == nbd::kRepInfo);
    CHECK(reply().type == nbd::kRepInfo);
    CHECK(reply().type == nbd::kRepAck);
  }
  // With structured replies, and those contexts, in the order of their ids.
  void go_structured(const std::vector<std::string>& contexts = {}) const {
    greet();
    option(nbd::kOptStructuredReply);
    CHECK(reply().type == nbd::kRepAck);
    if (!contexts.empty()) {
      option(nbd::kOptSetMetaContext, meta_query("disk", contexts));
      for (const std::string& context : contexts) CHECK(reply().text(4) == context);
      CHECK(reply().type == nbd::kRepAck);
    }
    choose();
  }

  // ---- transmission ----

  static Bytes request_message(uint16_t command, uint64_t cookie, uint64_t offset, uint32_t length,
                               uint16_t flags = 0) {
    Bytes message(28);
    store_be(message.data(), uint32_t{0x25609513});
    store_be(message.data() + 4, flags);
    store_be(message.data() + 6, command);
    store_be(message.data() + 8, cookie);
    store_be(message.data() + 16, offset);
    store_be(message.data() + 24, length);
    return message;
  }
  void request(uint16_t command, uint64_t cookie, uint64_t offset, uint32_t length,
               uint16_t flags = 0) const {
    send(request_message(command, cookie, offset, length, flags));
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
  uint32_t error_of_write(uint64_t offset, const Bytes& data, uint16_t flags = 0) const {
    request(nbd::kWrite, 5, offset, static_cast<uint32_t>(data.size()), flags);
    send(data);
    const Answer got = answer();
    CHECK(got.cookie == 5);
    return got.error;
  }

  struct Chunk {
    uint16_t type = 0;
    bool done = false;
    uint64_t cookie = 0;
    Bytes payload;
    // Of an error chunk, and what comes behind its message.
    uint32_t error() const { return load_be<uint32_t>(payload.data()); }
    uint64_t error_offset() const { return load_be<uint64_t>(payload.data() + payload.size() - 8); }
    // Of a content chunk.
    uint64_t offset() const { return load_be<uint64_t>(payload.data()); }
    uint32_t hole_bytes() const { return load_be<uint32_t>(payload.data() + 8); }
    // Of a block status chunk.
    uint32_t context() const { return load_be<uint32_t>(payload.data()); }
    std::vector<nbd::Extent> extents() const {
      std::vector<nbd::Extent> all;
      for (size_t at = 4; at < payload.size(); at += 8) {
        all.push_back(
            {load_be<uint32_t>(payload.data() + at), load_be<uint32_t>(payload.data() + at + 4)});
      }
      return all;
    }
  };
  static constexpr uint16_t kNone = 0, kData = 1, kHoleChunk = 2, kStatus = 5, kError = 0x8001,
                            kErrorOffset = 0x8002;
  Chunk chunk() const {
    const Bytes head = receive(20);
    CHECK(load_be<uint32_t>(head.data()) == 0x668e33ef);
    return {load_be<uint16_t>(head.data() + 6), load_be<uint16_t>(head.data() + 4) == 1,
            load_be<uint64_t>(head.data() + 8), receive(load_be<uint32_t>(head.data() + 16))};
  }

 private:
  const UniqueFd fd_;
};

}  // namespace plumb
