#include "base/https_client.h"

#include <openssl/evp.h>
#include <poll.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <optional>

namespace plumb {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Stream = beast::ssl_stream<beast::tcp_stream>;

constexpr uint32_t kHeaderLimitBytes = 64U << 10U;

bool is_address(const std::string& host) {
  boost::system::error_code error;
  asio::ip::make_address(host, error);
  return !error;
}

std::string authority_of(const HttpsConfig& config) {
  const bool colons = config.host.find(':') != std::string::npos;  // of an IPv6 address
  return fmt::format(fmt::runtime(colons ? "[{}]:{}" : "{}:{}"), config.host, config.port);
}

}  // namespace

struct HttpsClient::State {
  explicit State(HttpsConfig configured)
      : config(std::move(configured)),
        authority(authority_of(config)),
        name("https://" + authority) {}

  const HttpsConfig config;
  const std::string authority;
  const std::string name;
  asio::io_context context;
  std::optional<asio::ssl::context> tls;
  std::optional<Stream> stream;  // connected, or none
  beast::flat_buffer buffer;

  Error error(const std::string& reason) const { return failed("{}: {}", name, reason); }
  Error error(const char* what, const boost::system::error_code& cause) const;
  Result<> load_trust();
  Result<> connect(Deadline deadline);
  bool peer_hung_up();
  Result<HttpsAnswer> exchange(const HttpsRequest& request, Deadline deadline);

  // Starts an operation, and waits for its end. The deadline of a tcp_stream ends it in time.
  template <typename Start>
  boost::system::error_code wait(Start start) {
    boost::system::error_code result = asio::error::would_block;
    start([&result](const boost::system::error_code& error, auto&&...) { result = error; });
    context.restart();
    context.run();
    return result;
  }
};

Error HttpsClient::State::error(const char* what, const boost::system::error_code& cause) const {
  if (cause == beast::error::timeout) return error(fmt::format("{}: it took too long", what));
  if (cause == http::error::end_of_stream || cause == asio::ssl::error::stream_truncated ||
      cause == asio::error::eof) {
    return error(fmt::format("{}: it closed the connection", what));
  }
  if (cause == http::error::body_limit || cause == http::error::header_limit) {
    return error(fmt::format("{}: its answer is too long", what));
  }
  return error(fmt::format("{}: {}", what, cause.message()));
}

Result<> HttpsClient::State::load_trust() {
  if (tls) return {};
  try {
    asio::ssl::context made(asio::ssl::context::tls_client);
    made.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                     asio::ssl::context::no_tlsv1_1);
    made.set_verify_mode(asio::ssl::verify_peer);
    made.set_verify_callback(asio::ssl::host_name_verification(config.host));
    if (config.ca_file.empty()) {
      made.set_default_verify_paths();
    } else {
      made.load_verify_file(config.ca_file);
    }
    tls.emplace(std::move(made));
  } catch (const boost::system::system_error& cause) {
    return failed("the certificates {} cannot be read: {}",
                  config.ca_file.empty() ? "of this host" : config.ca_file, cause.code().message());
  }
  return {};
}

Result<> HttpsClient::State::connect(Deadline deadline) {
  TRY(load_trust());
  stream.reset();
  buffer.clear();
  asio::ip::tcp::resolver resolver(context);
  asio::ip::tcp::resolver::results_type addresses;
  boost::system::error_code failure = wait([&](auto done) {
    resolver.async_resolve(config.host, std::to_string(config.port),
                           [&addresses, done](const auto& cause, auto found) mutable {
                             addresses = std::move(found);
                             done(cause);
                           });
  });
  if (failure) return error("its address is not known", failure);
  Stream fresh(context, *tls);
  if (!is_address(config.host) &&
      SSL_set_tlsext_host_name(fresh.native_handle(), config.host.c_str()) != 1) {
    return error("its name cannot be asked for in TLS");
  }
  beast::tcp_stream& tcp = beast::get_lowest_layer(fresh);
  tcp.expires_at(deadline);
  failure = wait([&](auto done) { tcp.async_connect(addresses, done); });
  if (failure) return error("it cannot be reached", failure);
  boost::system::error_code ignored;
  tcp.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  failure = wait([&](auto done) { fresh.async_handshake(asio::ssl::stream_base::client, done); });
  if (failure) {
    const long verdict = SSL_get_verify_result(fresh.native_handle());
    if (verdict == X509_V_OK) return error("no TLS", failure);
    return error(
        fmt::format("its certificate is not trusted ({}); see that the array's name is in it, and "
                    "name the authority that signed it with 'ca-file'",
                    X509_verify_cert_error_string(verdict)));
  }
  stream.emplace(std::move(fresh));
  return {};
}

// A server ends a connection that is idle for long.
bool HttpsClient::State::peer_hung_up() {
  pollfd end{beast::get_lowest_layer(*stream).socket().native_handle(), POLLRDHUP, 0};
  return ::poll(&end, 1, 0) != 0;
}

Result<HttpsAnswer> HttpsClient::State::exchange(const HttpsRequest& request, Deadline deadline) {
  http::request<http::string_body> message;
  message.version(11);
  message.method_string(request.method);
  message.target(request.target);
  message.set(http::field::host, authority);
  message.set(http::field::user_agent, "plumb");
  for (const auto& [field, value] : request.headers) message.set(field, value);
  message.body() = request.body;
  message.prepare_payload();
  beast::get_lowest_layer(*stream).expires_at(deadline);
  boost::system::error_code failure =
      wait([&](auto done) { http::async_write(*stream, message, done); });
  if (failure) return error("nothing can be sent", failure);
  http::response_parser<http::string_body> parser;
  parser.body_limit(config.answer_limit_bytes);
  parser.header_limit(kHeaderLimitBytes);
  failure = wait([&](auto done) { http::async_read(*stream, buffer, parser, done); });
  if (failure) return error("no answer", failure);
  const unsigned status = parser.get().result_int();
  if (!parser.keep_alive()) stream.reset();
  if (status < 300 || status >= 400) return HttpsAnswer{status, std::move(parser.get().body())};
  return error(
      fmt::format("it sends elsewhere (HTTP {}); give the address that it sends to", status));
}

HttpsClient::HttpsClient(HttpsConfig config) : state_(std::make_unique<State>(std::move(config))) {}
HttpsClient::~HttpsClient() = default;
HttpsClient::HttpsClient(HttpsClient&& other) noexcept = default;
HttpsClient& HttpsClient::operator=(HttpsClient&& other) noexcept = default;

const std::string& HttpsClient::name() const { return state_->name; }

Result<HttpsAnswer> HttpsClient::ask(const HttpsRequest& request, Deadline deadline) {
  try {
    if (state_->stream && state_->peer_hung_up()) state_->stream.reset();
    const bool kept = state_->stream.has_value();
    if (!kept) TRY(state_->connect(deadline));
    Result<HttpsAnswer> answer = state_->exchange(request, deadline);
    if (!answer) state_->stream.reset();
    const bool again =
        !answer && kept && request.method == "GET" && std::chrono::steady_clock::now() < deadline;
    if (!again) return answer;
    TRY(state_->connect(deadline));
    answer = state_->exchange(request, deadline);
    if (!answer) state_->stream.reset();
    return answer;
  } catch (const std::exception& cause) {
    state_->stream.reset();
    return state_->error(cause.what());
  }
}

std::string basic_authorization(std::string_view user, std::string_view password) {
  std::string plain;
  plain.reserve(user.size() + 1 + password.size());
  plain.append(user).append(":").append(password);
  std::string text(4 * ((plain.size() + 2) / 3) + 1, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(plain.data()),
                                     static_cast<int>(plain.size()));
  text.resize(static_cast<size_t>(length));
  return "Basic " + text;
}

std::string percent_encoded(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

}  // namespace plumb
