#include "vmm/control_api.h"

#include <sys/socket.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/unix_socket.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// A server on a thread of its own.
struct Server {
  Server() {
    api = ControlApi::listen(context, path).value();
    api->handle("GET", "/vm", [](const Json&) -> Result<Json> { return Json{{"name", "db1"}}; });
    api->handle("PUT", "/echo", [](const Json& body) -> Result<Json> { return body; });
    api->handle("PUT", "/locked", [](const Json&) -> Result<Json> {
      return make_error(ErrorKind::kLocked, "held by VM db2");
    });
    thread = std::thread([this] { context.run(); });
  }
  ~Server() {
    context.stop();
    thread.join();
  }

  Result<Json> ask(const std::string& method, const std::string& target, const Json& body) {
    return ControlApi::request(path, method, target, body);
  }
  // What the server answers to these bytes, up to where it closes or stops to answer.
  std::string raw(const std::string& text) {
    const UniqueFd fd = connect_unix(path).value();
    REQUIRE(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) >= 0);
    ::shutdown(fd.get(), SHUT_WR);
    std::string answer;
    char buffer[4096];
    ssize_t got = 0;
    while ((got = ::recv(fd.get(), buffer, sizeof(buffer), 0)) > 0) {
      answer.append(buffer, static_cast<size_t>(got));
    }
    return answer;
  }

  TemporaryFolder folder;
  std::string path = folder.path() + "/control.sock";
  boost::asio::io_context context;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{
      context.get_executor()};
  std::unique_ptr<ControlApi> api;
  std::thread thread;
};

}  // namespace

TEST_CASE("a request gets its answer") {
  Server server;
  CHECK(server.ask("GET", "/vm", nullptr).value() == Json{{"name", "db1"}});
  CHECK(server.ask("PUT", "/echo", {{"a", 1}}).value() == Json{{"a", 1}});
}

TEST_CASE("an error keeps its class and its sentence") {
  Server server;
  Result<Json> locked = server.ask("PUT", "/locked", nullptr);
  REQUIRE_FALSE(locked.ok());
  CHECK(locked.error().kind == ErrorKind::kLocked);
  CHECK(locked.error().message == "held by VM db2");
  Result<Json> missing = server.ask("GET", "/none", nullptr);
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().kind == ErrorKind::kNotFound);
}

TEST_CASE("requests that are none do not end the server") {
  Server server;
  CHECK(server.raw("PUT /echo HTTP/1.1\r\nHost: vm\r\nContent-Length: 7\r\n\r\n{broken")
            .starts_with("HTTP/1.1 400"));
  server.raw("nonsense\r\n\r\n");
  server.raw(std::string(1 << 20, 'A'));
  server.raw("GET /vm HTTP/1.1\r\nX: " + std::string(1 << 20, 'h') + "\r\n\r\n");
  server.raw("PUT /echo HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n");
  server.raw(std::string("GET /\0vm HTTP/1.1\r\n\r\n", 22));
  server.raw("");
  CHECK(server.ask("GET", "/vm", nullptr).ok());
}

TEST_CASE("nobody at the socket is an error that names it") {
  Result<Json> answer = ControlApi::request("/nonexistent/control.sock", "GET", "/vm", nullptr);
  REQUIRE_FALSE(answer.ok());
  CHECK(answer.error().message.find("/nonexistent/control.sock") != std::string::npos);
}

}  // namespace plumb
