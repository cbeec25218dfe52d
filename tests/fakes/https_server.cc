#include "tests/fakes/https_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <cstdio>

#include "base/check.h"

namespace plumb {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Stream = beast::ssl_stream<asio::ip::tcp::socket>;

void write_pem(const std::string& path, const std::function<int(FILE*)>& write) {
  FILE* file = std::fopen(path.c_str(), "we");
  ENSURE(file != nullptr && write(file) == 1);
  std::fclose(file);
}

// A key, and a certificate that it has signed itself, valid for a day.
void make_certificate(const std::string& address, const std::string& key_file,
                      const std::string& certificate_file) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  ENSURE(key != nullptr && certificate != nullptr);
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 24 * 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  const bool number = address.find_first_not_of("0123456789.") == std::string::npos;
  const std::string names = (number ? "IP:" : "DNS:") + address;
  X509_EXTENSION* extension =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names.c_str());
  ENSURE(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
  ENSURE(X509_sign(certificate, key, EVP_sha256()) > 0);
  write_pem(key_file, [key](FILE* file) {
    return PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
  write_pem(certificate_file,
            [certificate](FILE* file) { return PEM_write_X509(file, certificate); });
  X509_free(certificate);
  EVP_PKEY_free(key);
}

std::string decoded(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      plain += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

ServedRequest read_request(const http::request<http::string_body>& message) {
  ServedRequest request;
  request.method = std::string(message.method_string());
  std::string target(message.target());
  const size_t question = target.find('?');
  request.path = target.substr(0, question);
  std::string query = question == std::string::npos ? "" : target.substr(question + 1);
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string part = query.substr(0, end);
    const size_t equals = part.find('=');
    request.query[decoded(part.substr(0, equals))] =
        equals == std::string::npos ? "" : decoded(part.substr(equals + 1));
    query = end == std::string::npos ? "" : query.substr(end + 1);
  }
  for (const auto& field : message) {
    std::string name(field.name_string());
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    request.headers[name] = std::string(field.value());
  }
  request.body = message.body();
  return request;
}

}  // namespace

struct HttpsServer::Tls {
  asio::io_context context;
  asio::ssl::context tls{asio::ssl::context::tls_server};
};

struct HttpsServer::Connection {
  Connection(Tls& tls, int fd)
      : stream(asio::ip::tcp::socket(tls.context, asio::ip::tcp::v4(), fd), tls.tls) {}
  int fd() { return beast::get_lowest_layer(stream).native_handle(); }
  // The other end, and whoever waits for it here, see the end.
  void end() { ::shutdown(fd(), SHUT_RDWR); }
  // Until the other end has gone.
  void outwait() {
    boost::system::error_code error;
    char buffer[1024];
    while (!error) stream.read_some(asio::buffer(buffer), error);
  }
  Stream stream;
  std::thread thread;
};

HttpsServer::HttpsServer(Handler handler, const std::string& address)
    : handler_(std::move(handler)), tls_(std::make_unique<Tls>()) {
  const std::string key_file = folder_.path() + "/key.pem";
  ca_file_ = folder_.path() + "/ca.pem";
  make_certificate(address, key_file, ca_file_);
  tls_->tls.use_certificate_chain_file(ca_file_);
  tls_->tls.use_private_key_file(key_file, asio::ssl::context::pem);
  listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(where);
  auto* generic = reinterpret_cast<sockaddr*>(&where);
  ENSURE(::bind(listener_.get(), generic, size) == 0 && ::listen(listener_.get(), 16) == 0);
  ENSURE(::getsockname(listener_.get(), generic, &size) == 0);
  port_ = ntohs(where.sin_port);
  acceptor_ = std::thread([this] { accept(); });
}

HttpsServer::~HttpsServer() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  close_kept();
  for (const auto& connection : connections_) connection->thread.join();
}

void HttpsServer::accept() {
  while (true) {
    const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    const std::lock_guard lock(mutex_);
    if (ending_) {
      if (fd >= 0) ::close(fd);
      return;
    }
    if (fd < 0) continue;
    connections_.push_back(std::make_unique<Connection>(*tls_, fd));
    Connection& connection = *connections_.back();
    connection.thread = std::thread([this, &connection] {
      serve(connection);
      connection.end();
    });
  }
}

void HttpsServer::serve(Connection& connection) {
  Stream& stream = connection.stream;
  boost::system::error_code error;
  stream.handshake(asio::ssl::stream_base::server, error);
  beast::flat_buffer buffer;
  while (!error) {
    http::request<http::string_body> message;
    http::read(stream, buffer, message, error);
    if (error) return;
    const ServedRequest request = read_request(message);
    ServedAnswer answer;
    HttpsFault fault = HttpsFault::kNone;
    {
      const std::lock_guard lock(mutex_);
      log_.push_back(request.method + " " + request.path);
      if (fault_) fault = fault_(request);
      if (fault == HttpsFault::kDropBefore) return;
      const bool done = fault != HttpsFault::kServerError && fault != HttpsFault::kRedirect;
      if (done) answer = handler_(request);
    }
    if (fault == HttpsFault::kDropAfter) return;
    if (fault == HttpsFault::kSilent) return connection.outwait();
    if (fault == HttpsFault::kServerError) answer = {503, "<html>busy</html>", {}};
    if (fault == HttpsFault::kNotJson) answer.body = "{\"records\": [";
    if (fault == HttpsFault::kRedirect) answer = {302, "", {{"Location", "https://elsewhere/"}}};
    http::response<http::string_body> reply;
    reply.version(11);
    reply.result(answer.status);
    reply.set(http::field::content_type, "application/json");
    for (const auto& [name, value] : answer.headers) reply.set(name, value);
    reply.body() = answer.body;
    reply.prepare_payload();
    if (fault == HttpsFault::kGiant || fault == HttpsFault::kDropInside) {
      reply.body() = std::string(1U << 16U, ' ');
      reply.content_length(uint64_t{1} << 40U);
      http::serializer<false, http::string_body> head(reply);
      http::write_header(stream, head, error);
      do {
        asio::write(stream, asio::buffer(reply.body()), error);
      } while (!error && fault == HttpsFault::kGiant);
      return;
    }
    http::write(stream, reply, error);
  }
}

std::vector<std::string> HttpsServer::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}

size_t HttpsServer::connections() const {
  const std::lock_guard lock(mutex_);
  return connections_.size();
}

void HttpsServer::set_fault(std::function<HttpsFault(const ServedRequest&)> fault) {
  const std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}

void HttpsServer::close_kept() {
  const std::lock_guard lock(mutex_);
  for (const auto& connection : connections_) connection->end();
}

}  // namespace plumb
