#include "blockdev/nbd/tls_transport.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <thread>

#include "tests/fakes/nbd_client.h"
#include "tests/fakes/nbd_served.h"

namespace plumb::nbd {
namespace {

using Client = NbdClient;

const std::string kUser = "ann";
const std::string kKey(32, '\x5a');

// A client that goes on under TLS.
class TlsClient final : public Client {
 public:
  explicit TlsClient(const std::string& path) : Client(path) {}
  ~TlsClient() override {
    SSL_free(session_);
    SSL_CTX_free(context_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  // Whether the handshake went well.
  bool start(int version, const std::string& user = kUser, const std::string& key = kKey) {
    user_ = user;
    key_ = key;
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context_, version);
    SSL_CTX_set_max_proto_version(context_, version);
    SSL_CTX_set_cipher_list(context_, "PSK:!aNULL");
    SSL_CTX_set_app_data(context_, this);
    SSL_CTX_set_psk_client_callback(context_, [](SSL* session, const char*, char* name,
                                                 unsigned room, unsigned char* to, unsigned) {
      const auto* self = static_cast<TlsClient*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(session)));
      ENSURE(self->user_.size() < room);
      std::strcpy(name, self->user_.c_str());
      std::ranges::copy(self->key_, to);
      return static_cast<unsigned>(self->key_.size());
    });
    session_ = SSL_new(context_);
    SSL_set_fd(session_, fd());
    const bool well = SSL_connect(session_) == 1;
    ERR_clear_error();
    return well;
  }
  // What a client that waits for TLS would have sent: to be sent by Client::send().
  void send(const Bytes& what) const override {
    if (session_ == nullptr) return Client::send(what);
    if (what.empty()) return;
    REQUIRE(SSL_write(session_, what.data(), static_cast<int>(what.size())) ==
            static_cast<int>(what.size()));
  }
  Bytes receive(size_t size) const override {
    if (session_ == nullptr) return Client::receive(size);
    Bytes got(size);
    size_t at = 0;
    while (at < size) {
      const int now = SSL_read(session_, got.data() + at, static_cast<int>(size - at));
      REQUIRE(now > 0);
      at += static_cast<size_t>(now);
    }
    return got;
  }
  // The server has said that it ends.
  bool told_end() const {
    char byte = 0;
    return SSL_read(session_, &byte, 1) == 0 && SSL_get_error(session_, 0) == SSL_ERROR_ZERO_RETURN;
  }
  void upgrade() const {
    greet();
    option(kOptStartTls);
    CHECK(reply().type == kRepAck);
  }

 private:
  std::string user_;
  std::string key_;
  SSL_CTX* context_ = nullptr;
  SSL* session_ = nullptr;
};

struct TlsServed {
  TlsServed() { std::signal(SIGPIPE, SIG_IGN); }
  static NbdServed::Config config(TlsAcceptor* acceptor) {
    NbdServed::Config config;
    config.info = {.size_bytes = kServedBytes};
    config.served.writable = true;
    config.tls = acceptor;
    return config;
  }
  std::unique_ptr<TlsAcceptor> acceptor = make_psk_acceptor({{kUser, kKey}, {"bob", "x"}}).value();
  NbdServed served{config(acceptor.get())};
};

}  // namespace

TEST_CASE("who has the key is served under TLS") {
  TlsServed one;
  TlsClient client(one.served.path);
  client.upgrade();
  REQUIRE(client.start(GENERATE(TLS1_2_VERSION, TLS1_3_VERSION)));
  client.option(kOptStructuredReply);
  CHECK(client.reply().type == kRepAck);
  client.choose();
  client.request(kRead, 1, 0, 1U << 20U);
  const Client::Chunk chunk = client.chunk();
  REQUIRE(chunk.payload.size() == 8 + (1U << 20U));
  size_t wrong = 0;
  for (size_t i = 8; i < chunk.payload.size(); ++i) {
    wrong += chunk.payload[i] == HoldingDevice::at(i - 8) ? 0 : 1;
  }
  CHECK(wrong == 0);
  client.request(kDisconnect, 0, 0, 0);
  CHECK(client.told_end());
}

TEST_CASE("data of every length comes through, with requests close behind it") {
  TlsServed one;
  TlsClient client(one.served.path);
  client.upgrade();
  REQUIRE(client.start(TLS1_3_VERSION));
  client.choose();
  // Around the lengths of records and of what is received at a time, and beyond.
  for (const size_t length : {512U, 16384U, 16896U, 20480U, 65536U, 66048U, 600'064U}) {
    CAPTURE(length);
    Bytes data(length);
    for (size_t i = 0; i < length; ++i) data[i] = static_cast<std::byte>(i * 17 / 3);
    // The head alone, then the data with the next request in the same records.
    client.request(kWrite, 1, 0, static_cast<uint32_t>(length));
    const Bytes head = Client::request_message(kRead, 0, 0, static_cast<uint32_t>(length));
    Bytes both = data;
    both.insert(both.end(), head.begin(), head.end());
    client.send(both);
    size_t ended = 0;
    for (int i = 0; i < 2; ++i) {
      const Client::Answer answer = client.answer();
      CHECK(answer.error == 0);
      if (answer.cookie == 0) CHECK(client.receive(length).size() == length);
      ++ended;
    }
    CHECK(ended == 2);
    CHECK(client.error_of(kRead, 0, static_cast<uint32_t>(length)) == 0);
    CHECK(client.receive(length) == data);
  }
}

TEST_CASE("who has another key, or is nobody's user, is not served") {
  TlsServed one;
  const std::string user = GENERATE(as<std::string>(), "ann", "carl");
  const int version = GENERATE(TLS1_2_VERSION, TLS1_3_VERSION);
  TlsClient client(one.served.path);
  client.upgrade();
  CHECK_FALSE(client.start(version, user, std::string(32, '\x11')));
  TlsClient good(one.served.path);
  good.upgrade();
  CHECK(good.start(version));
}

TEST_CASE("versions before TLS 1.2 are not taken") {
  TlsServed one;
  TlsClient client(one.served.path);
  client.upgrade();
  CHECK_FALSE(client.start(TLS1_1_VERSION));
}

TEST_CASE("nothing is told without TLS") {
  TlsServed one;
  const Client client(one.served.path);
  client.greet();
  client.option(kOptList);
  CHECK(client.reply().type == kRepErrTlsRequired);
  client.option(kOptGo, Client::query("disk"));
  CHECK(client.reply().type == kRepErrTlsRequired);
  client.option(kOptExportName);
  CHECK(client.ended());
}

TEST_CASE("what comes in the clear behind the wish for TLS ends the connection") {
  TlsServed one;
  const Client client(one.served.path);
  client.greet();
  Bytes both = Client::option_message(kOptStartTls);
  const Bytes smuggled = Client::option_message(kOptGo, Client::query("disk"));
  both.insert(both.end(), smuggled.begin(), smuggled.end());
  client.send(both);
  CHECK(client.ended());
}

TEST_CASE("what is no TLS ends its connection, and a slow handshake holds up nobody") {
  TlsServed one;
  const Client slow(one.served.path);
  slow.greet();
  slow.option(kOptStartTls);
  CHECK(slow.reply().type == kRepAck);
  slow.send({std::byte{0x16}, std::byte{3}});  // the beginning of a record
  const Client bad(one.served.path);
  bad.greet();
  bad.option(kOptStartTls);
  CHECK(bad.reply().type == kRepAck);
  bad.send(Bytes(100, std::byte{0x42}));
  TlsClient good(one.served.path);
  good.upgrade();
  REQUIRE(good.start(TLS1_3_VERSION));
  good.choose();
  CHECK(good.error_of(kRead, 0, 512) == 0);
}

}  // namespace plumb::nbd
