#include "blockdev/nbd/tls_transport.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstring>

namespace plumb::nbd {
namespace {

constexpr size_t kRecordBytes = 16384;  // RFC 8446, 5.1: the most that one record carries

struct Free {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  void operator()(SSL* session) const { SSL_free(session); }
};
using Context = std::unique_ptr<SSL_CTX, Free>;
using Session = std::unique_ptr<SSL, Free>;

// What OpenSSL says of the last failure on this thread; forgets it.
std::string last_reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "for a reason that OpenSSL does not tell" : reason;
}

class TlsTransport final : public Transport {
 public:
  explicit TlsTransport(Session session) : session_(std::move(session)) {}
  // Tells the client that this is the end, if it can be told now.
  ~TlsTransport() override {
    if (!broken_ && SSL_is_init_finished(session_.get())) SSL_shutdown(session_.get());
    ERR_clear_error();
  }
  TlsTransport(const TlsTransport&) = delete;
  TlsTransport& operator=(const TlsTransport&) = delete;

  Moved receive(std::span<std::byte> to) override {
    size_t got = 0;
    // Whole records, so that what is left of one is never at hand without anybody's knowing.
    do {
      size_t now = 0;
      const int done = SSL_read_ex(session_.get(), to.data() + got, to.size() - got, &now);
      if (done != 1) return got > 0 ? some(got) : stopped(done);
      got += now;
    } while (to.size() - got >= kRecordBytes);
    return some(got);
  }

  Moved send(std::span<const iovec> from) override {
    const std::span<const std::byte> bytes = first_of(from);
    size_t sent = 0;
    const int done = SSL_write_ex(session_.get(), bytes.data(), bytes.size(), &sent);
    return done == 1 ? some(sent) : stopped(done);
  }

  bool pending() const override { return SSL_pending(session_.get()) > 0; }
  const std::string& failure() const override { return failure_; }

 private:
  static Moved some(size_t bytes) { return {Moved::Outcome::kSome, bytes}; }

  Moved stopped(int result) {
    switch (SSL_get_error(session_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        return {Moved::Outcome::kNeedsReadable, 0};
      case SSL_ERROR_WANT_WRITE:
        return {Moved::Outcome::kNeedsWritable, 0};
      case SSL_ERROR_ZERO_RETURN:
        return {};
      default:
        broken_ = true;
        if (ERR_peek_error() == 0) return {};  // the socket broke
        failure_ = "TLS failed: " + last_reason();
        return {};
    }
  }

  // A record's worth of what is to be sent; a short head goes into one with the data behind it.
  std::span<const std::byte> first_of(std::span<const iovec> from) {
    const auto* head = static_cast<const std::byte*>(from.front().iov_base);
    const size_t head_bytes = from.front().iov_len;
    const iovec& data = from.back();
    if (head_bytes == 0) return {static_cast<const std::byte*>(data.iov_base), data.iov_len};
    if (data.iov_len == 0 || head_bytes >= kRecordBytes) return {head, head_bytes};
    const size_t of_data = std::min(data.iov_len, kRecordBytes - head_bytes);
    record_.resize(head_bytes + of_data);
    std::memcpy(record_.data(), head, head_bytes);
    std::memcpy(record_.data() + head_bytes, data.iov_base, of_data);
    return record_;
  }

  Session session_;
  bool broken_ = false;
  std::string failure_;
  std::vector<std::byte> record_;
};

class PskAcceptor final : public TlsAcceptor {
 public:
  PskAcceptor(Context context, std::vector<PskKey> keys)
      : context_(std::move(context)), keys_(std::move(keys)) {
    SSL_CTX_set_app_data(context_.get(), this);
    SSL_CTX_set_psk_server_callback(context_.get(), find_key);
  }
  ~PskAcceptor() override {
    for (PskKey& one : keys_) OPENSSL_cleanse(one.key.data(), one.key.size());
  }
  PskAcceptor(const PskAcceptor&) = delete;
  PskAcceptor& operator=(const PskAcceptor&) = delete;

  std::unique_ptr<Transport> accept(int fd) override {
    Session session(SSL_new(context_.get()));
    ENSURE(session != nullptr && SSL_set_fd(session.get(), fd) == 1);
    SSL_set_accept_state(session.get());
    return std::make_unique<TlsTransport>(std::move(session));
  }

 private:
  // 0: no such user.
  static unsigned find_key(SSL* session, const char* user, unsigned char* to, unsigned room) {
    const auto* self =
        static_cast<const PskAcceptor*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(session)));
    const auto found = std::ranges::find(self->keys_, std::string_view(user), &PskKey::user);
    if (found == self->keys_.end() || found->key.size() > room) return 0;
    std::ranges::copy(found->key, to);
    return static_cast<unsigned>(found->key.size());
  }

  const Context context_;
  std::vector<PskKey> keys_;
};

}  // namespace

Result<std::unique_ptr<TlsAcceptor>> make_psk_acceptor(std::vector<PskKey> keys) {
  // Of TLS 1.3 those that a key without a hash of its own goes with (RFC 8446, 4.2.11: SHA-256),
  // the quicker one first; of TLS 1.2 those with forward secrecy and AEAD.
  constexpr const char* kSuites13 = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";
  constexpr const char* kSuites =
      "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:"
      "DHE-PSK-CHACHA20-POLY1305";
  ERR_clear_error();
  Context context(SSL_CTX_new(TLS_server_method()));
  const bool made = context != nullptr &&
                    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) == 1 &&
                    SSL_CTX_set_ciphersuites(context.get(), kSuites13) == 1 &&
                    SSL_CTX_set_cipher_list(context.get(), kSuites) == 1 &&
                    SSL_CTX_set_dh_auto(context.get(), 1) == 1;
  if (!made) return failed("TLS with pre-shared keys cannot be used here: {}", last_reason());
  // No session is resumed: each connection proves its key. Who only goes away, without the words
  // that TLS has for it, cuts nothing short: requests have lengths.
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                         SSL_OP_IGNORE_UNEXPECTED_EOF |
                                         SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  return std::make_unique<PskAcceptor>(std::move(context), std::move(keys));
}

}  // namespace plumb::nbd
