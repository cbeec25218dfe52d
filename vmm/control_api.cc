#include "vmm/control_api.h"

#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "base/unix_socket.h"

namespace plumb {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Protocol = asio::local::stream_protocol;
using Json = nlohmann::json;
using Request = http::request<http::string_body>;
using Response = http::response<http::string_body>;

http::status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return http::status::bad_request;
    case ErrorKind::kNotFound:
      return http::status::not_found;
    case ErrorKind::kLocked:
      return http::status::conflict;
    case ErrorKind::kArray:
    case ErrorKind::kFreeze:
    case ErrorKind::kFailed:
      break;
  }
  return http::status::internal_server_error;
}

ErrorKind kind_of(http::status status) {
  switch (status) {
    case http::status::bad_request:
      return ErrorKind::kUsage;
    case http::status::not_found:
      return ErrorKind::kNotFound;
    case http::status::conflict:
      return ErrorKind::kLocked;
    default:
      return ErrorKind::kFailed;
  }
}

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

struct ControlApi::State : std::enable_shared_from_this<State> {
  State(asio::io_context& context, std::string socket_path)
      : acceptor(context), path(std::move(socket_path)) {}

  Protocol::acceptor acceptor;
  std::string path;
  std::map<std::pair<std::string, std::string>, Handler> handlers;
  std::map<std::string, std::function<std::string()>> texts;
  unsigned sessions = 0;

  void accept();
  void answer(const Request& request, Response& response);
  Result<Json> answer_json(const Request& request);
};

namespace {

// One connection: requests are answered one after the other until it ends or idles.
template <typename Server>
class Session : public std::enable_shared_from_this<Session<Server>> {
 public:
  Session(Protocol::socket socket, std::shared_ptr<Server> server)
      : stream_(std::move(socket)), server_(std::move(server)) {
    ++server_->sessions;
  }
  ~Session() { --server_->sessions; }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void read() {
    parser_.emplace();
    parser_->body_limit(ControlApi::kMaxBodyBytes);
    stream_.expires_after(std::chrono::seconds(ControlApi::kIdleSeconds));
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](beast::error_code error, size_t) {
                       if (!error) self->respond();
                     });
  }

 private:
  void respond() {
    const Request& request = parser_->get();
    response_ = Response(http::status::ok, request.version());
    response_.keep_alive(request.keep_alive());
    server_->answer(request, response_);
    response_.prepare_payload();
    http::async_write(stream_, response_,
                      [self = this->shared_from_this()](beast::error_code error, size_t) {
                        if (!error && self->response_.keep_alive()) self->read();
                      });
  }

  beast::basic_stream<Protocol> stream_;
  std::shared_ptr<Server> server_;
  beast::flat_buffer buffer_{ControlApi::kMaxBodyBytes + 8192};
  std::optional<http::request_parser<http::string_body>> parser_;
  Response response_;
};

}  // namespace

void ControlApi::State::accept() {
  acceptor.async_accept(
      [self = shared_from_this()](beast::error_code error, Protocol::socket socket) {
        if (error == asio::error::operation_aborted) return;
        if (!error && self->sessions < kMaxSessions) {
          std::make_shared<Session<State>>(std::move(socket), self)->read();
        }
        self->accept();
      });
}

void ControlApi::State::answer(const Request& request, Response& response) {
  const auto text = texts.find(std::string(request.target()));
  if (text != texts.end() && request.method() == http::verb::get) {
    response.set(http::field::content_type, "text/plain; version=0.0.4");
    response.body() = text->second();
    return;
  }
  Result<Json> answer = answer_json(request);
  response.set(http::field::content_type, "application/json");
  if (!answer.ok()) response.result(status_of(answer.error().kind));
  response.body() = text_of(answer.ok() ? answer.value() : Json{{"error", answer.error().message}});
}

Result<Json> ControlApi::State::answer_json(const Request& request) {
  const std::string method(request.method_string());
  const std::string target(request.target());
  const auto handler = handlers.find({method, target});
  if (handler == handlers.end()) {
    return make_error(ErrorKind::kNotFound, "there is no {} {}; docs/api.yaml lists what there is",
                      method.substr(0, 16), target.substr(0, 80));
  }
  Json body;
  if (!request.body().empty()) {
    body = Json::parse(request.body(), nullptr, false);
    if (body.is_discarded()) return usage_error("the body of {} {} is not JSON", method, target);
  }
  return handler->second(body);
}

ControlApi::ControlApi(std::shared_ptr<State> state) : state_(std::move(state)) {}

ControlApi::~ControlApi() {
  beast::error_code ignored;
  state_->acceptor.close(ignored);
  state_->handlers.clear();
  state_->texts.clear();
  ::unlink(state_->path.c_str());
}

Result<std::unique_ptr<ControlApi>> ControlApi::listen(asio::io_context& context,
                                                       const std::string& socket_path) {
  UniqueFd listener = TRY(listen_unix(socket_path, kMaxSessions));
  auto state = std::make_shared<State>(context, socket_path);
  beast::error_code error;
  state->acceptor.assign(Protocol(), listener.get(), error);
  if (error) return failed("socket {} cannot be served: {}", socket_path, error.message());
  static_cast<void>(listener.release());  // the acceptor's now
  state->accept();
  return std::unique_ptr<ControlApi>(new ControlApi(std::move(state)));
}

void ControlApi::handle(const std::string& method, const std::string& target, Handler handler) {
  state_->handlers[{method, target}] = std::move(handler);
}

void ControlApi::handle_text(const std::string& target, std::function<std::string()> handler) {
  state_->texts[target] = std::move(handler);
}

Result<Json> ControlApi::request(const std::string& socket_path, const std::string& method,
                                 const std::string& target, const Json& body) {
  UniqueFd connection = TRY(connect_unix(socket_path));
  asio::io_context context;
  beast::basic_stream<Protocol> stream(context);
  beast::error_code error;
  stream.socket().assign(Protocol(), connection.get(), error);
  if (error) return failed("socket {} cannot be used: {}", socket_path, error.message());
  static_cast<void>(connection.release());

  Request request;
  request.method_string(method);
  request.target(target);
  request.version(11);
  request.set(http::field::host, "vm");
  if (!body.is_null()) request.body() = text_of(body);
  request.prepare_payload();

  beast::flat_buffer buffer;
  Response response;
  // Asynchronous, because only so the time limit holds.
  stream.expires_after(std::chrono::seconds(kIdleSeconds));
  http::async_write(stream, request, [&](beast::error_code write_error, size_t) {
    error = write_error;
    if (error) return;
    http::async_read(stream, buffer, response,
                     [&](beast::error_code read_error, size_t) { error = read_error; });
  });
  context.run();
  if (error) {
    Error silent = failed("socket {} gave no answer: {}", socket_path, error.message());
    silent.os_errno = EPIPE;
    return silent;
  }

  Json answer = Json::parse(response.body(), nullptr, false);
  if (answer.is_discarded())
    return failed("socket {} gave an answer that is not JSON", socket_path);
  if (response.result() == http::status::ok) return answer;
  return make_error(kind_of(response.result()), "{}", answer.value("error", "no reason given"));
}

}  // namespace plumb
