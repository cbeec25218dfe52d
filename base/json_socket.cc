#include "base/json_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "base/message_socket.h"
#include "base/unix_socket.h"

namespace plumb {
namespace {

using Json = nlohmann::json;
using Descriptor = boost::asio::posix::stream_descriptor;

Result<Json> parse(std::span<const std::byte> bytes) {
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  Json json = Json::parse(text, text + bytes.size(), nullptr, false);
  if (!json.is_object()) return failed("a message is not a JSON object");
  return json;
}

Json answer_of(Result<Json> result) {
  if (result) return {{"ok", std::move(result).value()}};
  const Error error = std::move(result).error();
  return {
      {"error", error.message}, {"kind", static_cast<int>(error.kind)}, {"errno", error.os_errno}};
}

// Whether anything, or the end, is there to be read.
enum class Waiting { kNothing, kEnd, kMessage };
Waiting look(int socket) {
  char byte = 0;
  const ssize_t got = ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got > 0) return Waiting::kMessage;
  return got < 0 && (errno == EAGAIN || errno == EINTR) ? Waiting::kNothing : Waiting::kEnd;
}

}  // namespace

struct JsonServer::State : std::enable_shared_from_this<State> {
  struct Connection {
    Connection(boost::asio::io_context& context, int fd) : socket(context, fd), patience(context) {}
    Descriptor socket;
    boost::asio::steady_timer patience;
    bool busy = false;  // a request is under way
  };

  State(boost::asio::io_context& io, int listening, Config configured)
      : context(io), listener(io, listening), config(std::move(configured)) {}

  boost::asio::io_context& context;
  Descriptor listener;
  const Config config;
  std::map<Id, Connection> connections;
  Id last_id = 0;
  bool gone = false;  // the server

  void accept();
  void add(UniqueFd socket);
  void watch(Id id);
  void readable(Id id);
  void reply(Id id, Result<Json> answer);
  void close(Id id);
};

void JsonServer::State::accept() {
  listener.async_wait(Descriptor::wait_read,
                      [self = shared_from_this()](const boost::system::error_code& error) {
                        if (error || self->gone) return;
                        self->add(UniqueFd(::accept4(self->listener.native_handle(), nullptr,
                                                     nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)));
                        self->accept();
                      });
}

void JsonServer::State::add(UniqueFd socket) {
  if (!socket || connections.size() >= config.max_connections) return;
  const Id id = ++last_id;
  const auto added = connections.try_emplace(id, context, socket.release()).first;
  added->second.patience.expires_after(config.patience);
  added->second.patience.async_wait(
      [self = shared_from_this(), id](const boost::system::error_code& error) {
        if (!error && !self->gone) self->close(id);
      });
  watch(id);
}

void JsonServer::State::watch(Id id) {
  connections.at(id).socket.async_wait(
      Descriptor::wait_read,
      [self = shared_from_this(), id](const boost::system::error_code& error) {
        if (!error && !self->gone && self->connections.contains(id)) self->readable(id);
      });
}

void JsonServer::State::readable(Id id) {
  Connection& connection = connections.at(id);
  const int socket = connection.socket.native_handle();
  const Waiting waiting = look(socket);
  if (waiting == Waiting::kNothing) return watch(id);
  if (waiting == Waiting::kEnd || connection.busy) return close(id);
  connection.patience.cancel();
  Result<ReceivedMessage> message =
      receive_message(socket, config.max_message_bytes, config.max_fds);
  Result<Json> request = message ? parse(message->bytes) : Result<Json>(message.error());
  connection.busy = true;
  if (!request) {
    reply(id, std::move(request).error());
    return close(id);
  }
  // The end of the peer is to be seen while the request is under way.
  watch(id);
  config.request(id, *request, std::move(message->fds),
                 [weak = weak_from_this(), id](Result<Json> answer) {
                   const auto self = weak.lock();
                   if (self && !self->gone) self->reply(id, std::move(answer));
                 });
}

void JsonServer::State::reply(Id id, Result<Json> answer) {
  const auto found = connections.find(id);
  if (found == connections.end()) return;
  found->second.busy = false;
  Result<> sent = send_request(found->second.socket.native_handle(), answer_of(std::move(answer)));
  if (!sent) log::warning("who asked got no answer: {}", sent.error().message);
}

void JsonServer::State::close(Id id) {
  connections.erase(id);
  if (config.closed) config.closed(id);
}

Result<std::unique_ptr<JsonServer>> JsonServer::listen(boost::asio::io_context& context,
                                                       Config config) {
  UniqueFd listener =
      TRY(listen_unix(config.path, static_cast<int>(config.max_connections), SOCK_SEQPACKET));
  auto state = std::make_shared<State>(context, listener.release(), std::move(config));
  state->accept();
  return std::unique_ptr<JsonServer>(new JsonServer(std::move(state)));
}

JsonServer::JsonServer(std::shared_ptr<State> state) : state_(std::move(state)) {}

JsonServer::~JsonServer() {
  state_->gone = true;
  boost::system::error_code ignored;
  state_->listener.close(ignored);
  state_->connections.clear();
  ::unlink(state_->config.path.c_str());
}

Result<> send_request(int socket, const Json& request, std::span<const int> fds) {
  const std::string text = request.dump(-1, ' ', false, Json::error_handler_t::replace);
  return send_message(socket, std::as_bytes(std::span(text)), fds);
}

Result<Json> receive_answer(int socket, size_t limit_bytes, int timeout_ms) {
  pollfd answered{socket, POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&answered, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) return os_error(ETIMEDOUT, "no answer came within {} ms", timeout_ms);
  Result<ReceivedMessage> received = receive_message(socket, limit_bytes, 0);
  const int error = received ? 0 : received.error().os_errno;
  if (error == ECONNRESET || (received && received->bytes.empty())) {
    return Error{ErrorKind::kFailed, EPIPE, "the other end went away"};
  }
  if (!received) return std::move(received).error();
  Json answer = TRY(parse(received->bytes));
  if (answer.contains("ok")) return std::move(answer["ok"]);
  const auto text = answer.find("error");
  const auto kind = answer.find("kind");
  const auto number = answer.find("errno");
  const bool good = text != answer.end() && text->is_string() && kind != answer.end() &&
                    kind->is_number_integer() && number != answer.end() &&
                    number->is_number_integer();
  if (!good) return failed("an answer is neither a value nor an error");
  return Error{static_cast<ErrorKind>(kind->get<int>()), number->get<int>(),
               text->get<std::string>()};
}

}  // namespace plumb
