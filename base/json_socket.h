// Requests and answers as JSON over a SOCK_SEQPACKET Unix socket, with descriptors beside the
// requests: the way into a running VM's process for what HTTP cannot carry.
//
// An answer is {"ok": ANY} or {"error": SENTENCE, "kind": ErrorKind, "errno": NUMBER}. A connection
// has one request under way; one that sends another meanwhile is closed.
#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class JsonServer {
 public:
  // Of a connection; never used again.
  using Id = uint64_t;
  // Once, on the context's thread, now or later; without effect when the connection has ended.
  using Reply = std::function<void(Result<nlohmann::json> answer)>;

  struct Config {
    std::string path;              // made with mode 0600, removed when the server goes
    unsigned max_connections = 8;  // more are closed at once
    size_t max_message_bytes = 65536;
    size_t max_fds = 0;  // beside a request
    // A connection that sends no first request for so long is closed.
    std::chrono::seconds patience{10};
    // Takes a request, an object.
    std::function<void(Id, const nlohmann::json&, std::vector<UniqueFd> fds, Reply)> request;
    // The peer of a connection has gone, or broke the rules; may be empty.
    std::function<void(Id)> closed;
  };

  // Serves on the thread that runs `context`.
  static Result<std::unique_ptr<JsonServer>> listen(boost::asio::io_context& context,
                                                    Config config);
  // Closes all connections, and calls nobody any more.
  ~JsonServer();
  JsonServer(const JsonServer&) = delete;
  JsonServer& operator=(const JsonServer&) = delete;

 private:
  struct State;
  explicit JsonServer(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// --- For clients; they block. The server's own errors come back as they were there; os_errno is
// EPIPE when it went away, and ETIMEDOUT when it did not answer in time. ---

Result<> send_request(int socket, const nlohmann::json& request, std::span<const int> fds = {});
// `timeout_ms` -1: no limit.
Result<nlohmann::json> receive_answer(int socket, size_t limit_bytes = 65536, int timeout_ms = -1);

}  // namespace plumb
