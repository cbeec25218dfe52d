// A client of one HTTPS server: requests one after the other over a connection that is kept, each
// with a deadline and a bounded answer.
//
// The server must prove with its certificate that it is the host asked for; there is no way to
// leave that out. A redirect is an error: secrets go nowhere else. Errors name the server and the
// reason, never a header or a body.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

struct HttpsConfig {
  std::string host;  // a name or an address, which the certificate must be for
  uint16_t port = 443;
  std::string ca_file;  // PEM: only what these authorities signed is trusted; "": the host's own
  size_t answer_limit_bytes = 16U << 20U;
};

struct HttpsRequest {
  std::string method;                                        // "GET"
  std::string target;                                        // path and query, encoded
  std::vector<std::pair<std::string, std::string>> headers;  // Host and Content-Length are added
  std::string body;
};

struct HttpsAnswer {
  unsigned status = 0;  // never a redirect
  std::string body;
};

// Blocks; one thread at a time.
class HttpsClient {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  // Connects when it is first needed.
  explicit HttpsClient(HttpsConfig config);
  ~HttpsClient();
  HttpsClient(HttpsClient&& other) noexcept;
  HttpsClient& operator=(HttpsClient&& other) noexcept;

  // The look-up of a name takes as long as the host's resolver lets it; all else ends at the
  // deadline. Errors: no connection, a certificate that is not trusted or of another host, no whole
  // answer before the deadline, one that is too long, or is no HTTP. Then it is not known whether
  // the server did what was asked. Only a GET whose kept connection had died is asked again.
  Result<HttpsAnswer> ask(const HttpsRequest& request, Deadline deadline);

  // "https://HOST:PORT"
  const std::string& name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The value of the header Authorization (RFC 7617).
std::string basic_authorization(std::string_view user, std::string_view password);

// A part of a target: all but letters, digits, '-', '.', '_' and '~' as %XX (RFC 3986, 2.1).
std::string percent_encoded(std::string_view text);

}  // namespace plumb
