// ControlApi: HTTP with JSON on a Unix socket, one per VM. docs/api.yaml describes what it serves;
// `curl --unix-socket /run/plumb/NAME/control.sock http://vm/vm` works.
//
// A table of handlers; requests are served on the thread that runs the io_context, the control
// thread. Limits: kMaxSessions connections, kMaxBodyBytes a request, kIdleSeconds without one.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"

namespace boost::asio {
class io_context;
}

namespace plumb {

class ControlApi {
 public:
  static constexpr unsigned kMaxSessions = 32;
  static constexpr unsigned kMaxBodyBytes = 64 * 1024;
  static constexpr unsigned kIdleSeconds = 30;

  // Gets the request's body (null when empty), gives the answer's. An error becomes
  // {"error": MESSAGE} with status 400 (usage), 404 (not found), 409 (locked) or 500.
  using Handler = std::function<Result<nlohmann::json>(const nlohmann::json& body)>;

  // Listens at `socket_path`, mode 0600.
  static Result<std::unique_ptr<ControlApi>> listen(boost::asio::io_context& context,
                                                    const std::string& socket_path);
  ~ControlApi();
  ControlApi(const ControlApi&) = delete;
  ControlApi& operator=(const ControlApi&) = delete;

  // `method` is "GET" or "PUT", `target` a path such as "/vm/pause".
  void handle(const std::string& method, const std::string& target, Handler handler);

  // "GET" of a path whose answer is plain text.
  void handle_text(const std::string& target, std::function<std::string()> handler);

  // One request to the server at `socket_path`, and its answer's body; what the server refuses
  // comes back as the Error it was there. Blocks, at most kIdleSeconds. For clients. An error's
  // os_errno is EPIPE when there was no answer.
  static Result<nlohmann::json> request(const std::string& socket_path, const std::string& method,
                                        const std::string& target, const nlohmann::json& body);

 private:
  struct State;
  explicit ControlApi(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace plumb
