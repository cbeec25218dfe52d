#include "blockdev/nbd/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace plumb::nbd {
namespace {

constexpr size_t kReceiveBytes = 65536;
constexpr uint64_t kReadAlignment = 4096;  // of every device

uint64_t round_down(uint64_t value) { return value / kReadAlignment * kReadAlignment; }

}  // namespace

// What is sent: a head, and the data behind it.
struct Connection::Answer {
  Bytes head;
  AlignedMemory memory;  // none: no data
  const std::byte* data = nullptr;
  size_t data_bytes = 0;
  size_t sent = 0;          // of both
  uint64_t held_bytes = 0;  // that go with it
};

// What was asked for, widened to what the device can read.
struct Connection::Read : BlockRequest {
  iovec piece{};
  AlignedMemory memory;
  Connection* connection = nullptr;
  uint64_t cookie = 0;
  size_t skip = 0;
  uint32_t asked_bytes = 0;
  uint64_t held_bytes = 0;
};

Connection::Connection(Server& server, UniqueFd fd) : server_(server), fd_(std::move(fd)) {
  send(greeting());
  watch();
}

Connection::~Connection() { ENSURE(at_device_ == 0 && !watched_); }

void Connection::close() {
  if (closed()) return;
  if (watched_) server_.config_.thread.unwatch(fd_.get());
  watched_ = false;
  fd_.reset();
  answers_.clear();
  if (at_device_ == 0) server_.remove(*this);
}

void Connection::fail(const std::string& why) {
  log::warning("an NBD client is cut off: {}", why);
  close();
}

ExportFacts Connection::facts() const {
  ExportFacts facts{.name = server_.config_.name};
  facts.size_bytes = server_.config_.device.info().size_bytes;
  facts.flags = kHasFlags | kReadOnly | kSendFlush | kMultiConnection;
  facts.max_block_bytes = Server::kMaxRequestBytes;
  return facts;
}

bool Connection::is_export(const std::string& name) const {
  return name.empty() || name == server_.config_.name;
}

bool Connection::takes_more() const { return !ending_ && held_bytes_ < Server::kMaxHeldBytes; }

// ---- what comes ---------------------------------------------------------------------------------

void Connection::ready() {
  go_on();
  if (closed() || !takes_more()) return;
  receive();
  go_on();
}

void Connection::go_on() {
  if (!closed()) flush_answers();
  while (!closed() && take_message()) {
  }
  if (!closed()) flush_answers();
  if (!closed()) watch();
}

void Connection::receive() {
  received_.erase(received_.begin(), received_.begin() + static_cast<ptrdiff_t>(taken_));
  taken_ = 0;
  const size_t had = received_.size();
  received_.resize(had + kReceiveBytes);
  const ssize_t got = ::recv(fd_.get(), received_.data() + had, kReceiveBytes, MSG_DONTWAIT);
  const int error = errno;
  received_.resize(had + (got > 0 ? static_cast<size_t>(got) : 0));
  if (got > 0 || (got < 0 && (error == EAGAIN || error == EINTR))) return;
  close();
}

bool Connection::take_message() {
  if (!takes_more()) return false;
  switch (phase_) {
    case Phase::kClientFlags:
      if (waiting().size() < kClientFlagsBytes) return false;
      take_client_flags();
      return !closed();
    case Phase::kOptions:
      return take_option();
    case Phase::kTransmission:
      return take_request();
  }
  return false;
}

void Connection::take_client_flags() {
  auto flags = parse_client_flags(waiting().first<kClientFlagsBytes>());
  if (!flags) return fail(flags.error().message);
  no_zeroes_ = (*flags & kNoZeroes) != 0;
  phase_ = Phase::kOptions;
  taken_ += kClientFlagsBytes;
}

bool Connection::take_option() {
  if (waiting().size() < kOptionHeaderBytes) return false;
  auto option = parse_option(waiting().first<kOptionHeaderBytes>());
  if (!option) {
    fail(option.error().message);
    return false;
  }
  const size_t all = kOptionHeaderBytes + option->data_bytes;
  if (waiting().size() < all) return false;
  answer_option(option->number, waiting().subspan(kOptionHeaderBytes, option->data_bytes));
  taken_ += all;
  return !closed();
}

void Connection::answer_option(uint32_t number, std::span<const std::byte> data) {
  switch (number) {
    case kOptExportName: {
      const std::string name(reinterpret_cast<const char*>(data.data()), data.size());
      // There is no way to refuse it but this.
      if (!is_export(name)) return fail("it asks for an export that there is not");
      phase_ = Phase::kTransmission;
      return send(export_name_reply(facts(), no_zeroes_));
    }
    case kOptAbort:
      ending_ = true;
      return send(option_reply(number, kRepAck));
    case kOptList:
      if (!data.empty()) return send(option_reply(number, kRepErrInvalid, "a list takes no data"));
      return send(list_reply(facts()));
    case kOptInfo:
    case kOptGo: {
      auto name = parse_info_query(data);
      if (!name) return send(option_reply(number, kRepErrInvalid, name.error().message));
      if (!is_export(*name)) {
        return send(option_reply(number, kRepErrUnknown, "there is no such export"));
      }
      if (number == kOptGo) phase_ = Phase::kTransmission;
      return send(info_replies(number, facts()));
    }
    default:
      return send(option_reply(number, kRepErrUnsupported));
  }
}

bool Connection::take_request() {
  const size_t skipped = std::min<uint64_t>(skip_, waiting().size());
  taken_ += skipped;
  skip_ -= skipped;
  if (skip_ > 0 || waiting().size() < kRequestBytes) return false;
  auto request = parse_request(waiting().first<kRequestBytes>());
  if (!request) {
    fail(request.error().message);
    return false;
  }
  taken_ += kRequestBytes;
  switch (request->command) {
    case kRead:
      start_read(*request);
      break;
    case kWrite:  // its data is on its way, refused or not
      skip_ = request->length;
      reply(request->cookie, EPERM);
      break;
    case kDisconnect:  // what was asked before is answered first
      ending_ = true;
      break;
    case kFlush:  // nothing was written
      reply(request->cookie, 0);
      break;
    default:
      reply(request->cookie, EINVAL);
  }
  return !closed();
}

// ---- reads --------------------------------------------------------------------------------------

void Connection::start_read(const Request& request) {
  const uint64_t size = server_.config_.device.info().size_bytes;
  const bool within = request.offset <= size && request.length <= size - request.offset;
  if (request.flags != 0 || request.length == 0 || request.length > Server::kMaxRequestBytes ||
      !within) {
    return reply(request.cookie, EINVAL);
  }
  const uint64_t begin = round_down(request.offset);
  const uint64_t end =
      std::min(round_down(request.offset + request.length + kReadAlignment - 1), size);
  auto read = std::make_unique<Read>();
  read->memory = aligned_memory(end - begin);
  if (read->memory == nullptr) return reply(request.cookie, ENOMEM);
  read->connection = this;
  read->cookie = request.cookie;
  read->skip = request.offset - begin;
  read->asked_bytes = request.length;
  read->held_bytes = end - begin;
  read->piece = {read->memory.get(), end - begin};
  read->op = BlockOp::kRead;
  read->offset = begin;
  read->length = end - begin;
  read->iov = &read->piece;
  read->iov_count = 1;
  read->done = read_done;
  held_bytes_ += read->held_bytes;
  ++at_device_;
  server_.config_.device.submit(*read.release());  // read_done() has it
}

void Connection::read_done(BlockRequest& request) {
  const std::unique_ptr<Read> read(static_cast<Read*>(&request));
  Connection& self = *read->connection;
  --self.at_device_;
  if (self.closed()) {
    if (self.at_device_ == 0) self.server_.remove(self);
    return;
  }
  if (request.error != 0) {
    self.held_bytes_ -= read->held_bytes;
    self.reply(read->cookie, request.error);
  } else {
    const std::byte* data = read->memory.get() + read->skip;
    self.answers_.push_back({.head = simple_reply(read->cookie, 0),
                             .memory = std::move(read->memory),
                             .data = data,
                             .data_bytes = read->asked_bytes,
                             .held_bytes = read->held_bytes});
  }
  self.go_on();
}

// ---- what goes ----------------------------------------------------------------------------------

void Connection::send(Bytes head) {
  const uint64_t held = sizeof(Answer) + head.size();
  held_bytes_ += held;
  answers_.push_back({.head = std::move(head), .memory = nullptr, .held_bytes = held});
}

void Connection::reply(uint64_t cookie, int error) { send(simple_reply(cookie, error)); }

void Connection::flush_answers() {
  while (!answers_.empty()) {
    Answer& next = answers_.front();
    const size_t of_head = std::min(next.sent, next.head.size());
    const size_t of_data = next.sent - of_head;
    iovec parts[] = {
        {next.head.data() + of_head, next.head.size() - of_head},
        {const_cast<std::byte*>(next.data) + of_data, next.data_bytes - of_data},
    };
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const ssize_t sent = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) return close();
    next.sent += static_cast<size_t>(sent);
    if (next.sent < next.head.size() + next.data_bytes) continue;
    held_bytes_ -= next.held_bytes;
    answers_.pop_front();
  }
  if (ending_ && at_device_ == 0) close();
}

// What the client must do next, read or ask, wakes us.
void Connection::watch() {
  const WatchFor wanted = answers_.empty() ? WatchFor::kReadable
                          : takes_more()   ? WatchFor::kReadableOrWritable
                                           : WatchFor::kWritable;
  // Not while all that is to be done is at the device.
  const bool any = !answers_.empty() || takes_more();
  if (watched_ == any && (!any || watched_for_ == wanted)) return;
  IoThread& thread = server_.config_.thread;
  if (watched_) thread.unwatch(fd_.get());
  watched_ = any;
  watched_for_ = wanted;
  if (any) {
    thread.watch(
        fd_.get(), [this] { ready(); }, wanted);
  }
}

}  // namespace plumb::nbd
