// An HTTPS server on 127.0.0.1 with a certificate of its own, for tests of what speaks to arrays.
// It answers what a handler says, and breaks when it is told to.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "tests/temporary_folder.h"

namespace plumb {

struct ServedRequest {
  std::string method;
  std::string path;                            // without the query, as sent
  std::map<std::string, std::string> query;    // decoded
  std::map<std::string, std::string> headers;  // names in small letters
  std::string body;

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct ServedAnswer {
  unsigned status = 200;
  std::string body;
  std::map<std::string, std::string> headers;
};

// What becomes of a request instead of its answer.
enum class HttpsFault {
  kNone,
  kDropBefore,  // the connection ends, and nothing was done
  kDropAfter,   // it was done, and the connection ends without an answer
  kDropInside,  // the same, in the middle of the answer
  kSilent,      // it was done, and no answer comes
  kServerError,
  kNotJson,
  kGiant,     // an answer without an end
  kRedirect,  // to another server
};

class HttpsServer {
 public:
  using Handler = std::function<ServedAnswer(const ServedRequest&)>;

  // Requests are handled one at a time. `address` is what its certificate is for.
  explicit HttpsServer(Handler handler, const std::string& address = "127.0.0.1");
  ~HttpsServer();
  HttpsServer(const HttpsServer&) = delete;
  HttpsServer& operator=(const HttpsServer&) = delete;

  uint16_t port() const { return port_; }
  const std::string& ca_file() const { return ca_file_; }

  // "METHOD PATH" of all requests so far.
  std::vector<std::string> log() const;
  // How many connections there have been.
  size_t connections() const;
  // The fault of a request, asked before it is handled.
  void set_fault(std::function<HttpsFault(const ServedRequest&)> fault);
  // As long as it lives, no request is handled: for looking at what the handler changes.
  std::unique_lock<std::mutex> hold() const { return std::unique_lock(mutex_); }
  // Ends the connections that clients keep.
  void close_kept();

 private:
  struct Connection;
  void accept();
  void serve(Connection& connection);

  const Handler handler_;
  TemporaryFolder folder_;
  std::string ca_file_;
  uint16_t port_ = 0;
  UniqueFd listener_;
  struct Tls;
  std::unique_ptr<Tls> tls_;

  mutable std::mutex mutex_;
  std::function<HttpsFault(const ServedRequest&)> fault_;
  std::vector<std::string> log_;
  std::vector<std::unique_ptr<Connection>> connections_;
  bool ending_ = false;
  std::thread acceptor_;
};

}  // namespace plumb
