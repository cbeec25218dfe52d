#include "blockdev/nbd/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace plumb::nbd {
namespace {

constexpr size_t kReceiveBytes = 65536;
constexpr size_t kMessagesPerTurn = 16;

const char* sentence_for(int error) {
  switch (error) {
    case EPERM:
      return "the export is read-only";
    case EINVAL:
      return "the request is not one that this export takes";
    default:
      return std::strerror(error);
  }
}

}  // namespace

Connection::Connection(Server& server, UniqueFd fd)
    : server_(server),
      fd_(std::move(fd)),
      transport_(make_plain_transport(fd_.get())),
      negotiation_({.offers = server.offers(), .tls = server.config_.tls != nullptr}) {
  IoThread& thread = server_.config_.thread;
  later_.owner = this;
  later_.done = [](IoOp& op) {
    Connection& self = *static_cast<Connection*>(op.owner);
    self.later_asked_ = false;
    --self.at_device_;
    if (!self.closed()) return self.go_on();
    if (self.at_device_ == 0) self.server_.remove(self);
  };
  deadline_.owner = this;
  deadline_.expired = [](IoTimer& timer) {
    static_cast<Connection*>(timer.owner)->fail("it did not choose an export in time");
  };
  thread.set_timer(deadline_, thread.turn_ns() + server_.config_.negotiation_ns);
  send(greeting());
  watch();
}

Connection::~Connection() { ENSURE(at_device_ == 0 && !watched_); }

void Connection::close() {
  if (closed()) return;
  unwatch();
  server_.config_.thread.cancel_timer(deadline_);
  transport_.reset();
  fd_.reset();
  answers_.clear();
  write_.reset();
  if (at_device_ == 0) server_.remove(*this);
}

void Connection::fail(const std::string& why) {
  log::warning("an NBD client is cut off: {}", why);
  close();
}

// The transport has ended.
void Connection::lost() {
  if (transport_->failure().empty()) return close();
  fail(transport_->failure());
}

bool Connection::takes_more() const {
  return !ending_ && phase_ != Phase::kBeforeTls && at_device_ < Server::kMaxRequests &&
         held_bytes_ + answers_.held_bytes() < Server::kMaxHeldBytes;
}

// What has come is taken first, or it would pile up. A write that has begun gets its data: what it
// holds is counted already.
bool Connection::reads() const { return !later_asked_ && (write_ != nullptr || takes_more()); }

// ---- what comes ---------------------------------------------------------------------------------

void Connection::go_on() {
  if (!closed()) flush_answers();
  size_t taken = 0;
  while (!closed() && taken < kMessagesPerTurn && (take_message() || take_pending())) ++taken;
  if (!closed()) flush_answers();
  if (closed()) return;
  if (taken == kMessagesPerTurn) go_on_later();
  watch();
}

// Others have their turn first: what one client asks for may take its time to look up.
void Connection::go_on_later() {
  if (later_asked_) return;
  later_asked_ = true;
  ++at_device_;
  server_.config_.thread.defer(later_);
}

// What no readable socket tells of.
bool Connection::take_pending() {
  if (closed() || !reads() || !transport_->pending()) return false;
  receive();
  return !closed();
}

void Connection::receive() {
  const bool straight = write_ != nullptr && waiting().empty();
  Moved moved;
  if (straight) {
    moved = transport_->receive(write_->data().subspan(write_bytes_));
    write_bytes_ += moved.bytes;
  } else {
    received_.erase(received_.begin(), received_.begin() + static_cast<ptrdiff_t>(taken_));
    taken_ = 0;
    const size_t had = received_.size();
    received_.resize(had + kReceiveBytes);
    moved = transport_->receive(std::span(received_).subspan(had));
    received_.resize(had + moved.bytes);
  }
  if (moved.outcome == Moved::Outcome::kEnded) return lost();
  receive_needs_ =
      moved.outcome == Moved::Outcome::kSome ? Moved::Outcome::kNeedsReadable : moved.outcome;
}

bool Connection::take_message() {
  if (write_ != nullptr) return take_data();
  if (!takes_more()) return false;
  switch (phase_) {
    case Phase::kClientFlags:
      return take_client_flags();
    case Phase::kOptions:
      return take_option();
    case Phase::kTransmission:
      return take_request();
    case Phase::kBeforeTls:
      break;
  }
  return false;
}

bool Connection::take_client_flags() {
  if (waiting().size() < kClientFlagsBytes) return false;
  auto flags = parse_client_flags(waiting().first<kClientFlagsBytes>());
  if (!flags) {
    fail(flags.error().message);
    return false;
  }
  negotiation_.set_client_flags(*flags);
  phase_ = Phase::kOptions;
  taken_ += kClientFlagsBytes;
  return true;
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
  const Negotiation::Step step =
      negotiation_.take(option->number, waiting().subspan(kOptionHeaderBytes, option->data_bytes));
  taken_ += all;
  act(step);
  return !closed();
}

void Connection::act(const Negotiation::Step& step) {
  if (step.next == Negotiation::Next::kCutOff) return fail(step.why);
  send(step.reply);
  switch (step.next) {
    case Negotiation::Next::kStartTls:
      // It would be taken for something that came under TLS.
      if (!waiting().empty()) return fail("it sends on before TLS has begun");
      phase_ = Phase::kBeforeTls;
      return;
    case Negotiation::Next::kTransmission:
      server_.config_.thread.cancel_timer(deadline_);
      phase_ = Phase::kTransmission;
      return;
    case Negotiation::Next::kEnd:
      ending_ = true;
      return;
    default:
      return;
  }
}

// The reply to STARTTLS has left.
void Connection::start_tls() {
  transport_ = server_.config_.tls->accept(fd_.get());
  phase_ = Phase::kOptions;
}

bool Connection::take_data() {
  const std::span<std::byte> to = write_->data().subspan(write_bytes_);
  const size_t now = std::min(to.size(), waiting().size());
  std::copy_n(waiting().begin(), now, to.begin());
  write_bytes_ += now;
  taken_ += now;
  if (write_bytes_ < write_->data().size()) return false;
  submit(std::move(write_));
  return true;
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
  if (request->command == kDisconnect) {  // what was asked before is answered first
    ending_ = true;
  } else {
    start(*request);
  }
  return !closed();
}

// ---- what is done about it ----------------------------------------------------------------------

void Connection::start(const Request& request) {
  const ExportFacts& facts = negotiation_.offer().facts;
  if (const int error = refusal(request, facts, negotiation_.agreed()); error != 0) {
    return refuse(request, error);
  }
  if (request.command == kBlockStatus) return send_status(request);
  const bool read_only = (facts.flags & kReadOnly) != 0;
  if (request.command == kFlush && read_only) return send_success(request);
  auto job = std::make_unique<Job>(
      request, *chosen().disk,
      [](Job& one, void* owner) {
        static_cast<Connection*>(owner)->ended(std::unique_ptr<Job>(&one));
      },
      this);
  if (request.command == kRead) {
    ExtentList extents = extents_for(request);
    if (std::ranges::all_of(extents.extents(),
                            [](const Extent& one) { return (one.flags & kZero) != 0; })) {
      return send_chunks(request, extents.extents(), nullptr);
    }
    job->set_extents(std::move(extents));
  }
  const bool has_data = request.command == kRead || request.command == kWrite;
  if (has_data && !job->allocate()) return refuse(request, ENOMEM);
  held_bytes_ += job->held_bytes();
  if (request.command != kWrite) return submit(std::move(job));
  write_ = std::move(job);
  write_bytes_ = 0;
}

void Connection::refuse(const Request& request, int error) {
  if (request.command == kWrite) skip_ = request.length;  // on its way, refused or not
  send_error(request, error);
}

void Connection::submit(std::unique_ptr<Job> job) {
  ++at_device_;
  job.release()->start();  // ended() has it
}

// What a read need not read: only a structured reply can leave something out.
ExtentList Connection::extents_for(const Request& request) const {
  ExtentList list(request.length, Server::kMaxReadExtents);
  ExtentSource* source = chosen().allocation;
  const bool whole = !structured() || (request.flags & kDoNotFragment) != 0 || source == nullptr;
  if (!whole && !source->describe(request.offset, list).ok()) {
    log::debug("the holes of export {} are not known, and are read", chosen().name);
  }
  if (list.covered() == request.length) return list;
  // The rest as data; where that would be one too many, all is.
  ExtentList filled(request.length, Server::kMaxReadExtents + 1);
  for (const Extent& extent : list.extents()) filled.add(extent.length, extent.flags);
  filled.add(request.length - list.covered(), 0);
  return filled;
}

void Connection::send_status(const Request& request) {
  const std::vector<uint32_t>& contexts = negotiation_.agreed().contexts;
  const size_t most = (request.flags & kReqOne) != 0 ? 1 : Server::kMaxExtents;
  for (const uint32_t context : contexts) {
    ExtentList list(request.length, most);
    ExtentSource* source = chosen().source_of(context);
    if (source != nullptr && !source->describe(request.offset, list).ok()) {
      log::debug("the extents of export {} cannot be looked up", chosen().name);
    }
    // Nothing known: data, of which 0 says nothing, or all changed.
    if (list.covered() == 0) list.add(request.length, context == 0 ? 0 : uint32_t{kDirty});
    send(block_status_chunk({.cookie = request.cookie, .done = context == contexts.back()}, context,
                            list.extents()));
  }
}

void Connection::ended(std::unique_ptr<Job> job) {
  --at_device_;
  held_bytes_ -= job->held_bytes();
  if (closed()) {
    if (at_device_ == 0) server_.remove(*this);
    return;
  }
  const Request& request = job->request();
  if (job->error() != 0 && structured() && request.command != kFlush) {
    send(error_offset_chunk(request.cookie, job->error(), std::strerror(job->error()),
                            job->error_offset()));
  } else if (job->error() != 0) {
    send_error(request, job->error());
  } else if (request.command == kRead) {
    send_read(*job);
  } else {
    send_success(request);
  }
  go_on();
}

void Connection::send_read(Job& job) {
  if (structured()) return send_chunks(job.request(), job.extents(), &job);
  answers_.push({.head = simple_reply(job.request().cookie, 0),
                 .memory = job.take_memory(),
                 .data = job.data().data(),
                 .data_bytes = job.data().size(),
                 .held_bytes = job.held_bytes()});
}

// `job` has what is read; none when all are zeroes.
void Connection::send_chunks(const Request& request, std::span<const Extent> extents, Job* job) {
  uint64_t at = request.offset;
  for (const Extent& extent : extents) {
    const auto length = static_cast<uint32_t>(extent.length);
    const bool last = &extent == &extents.back();
    const ChunkOf chunk{.cookie = request.cookie, .done = last};
    Answer answer{.head = {}, .memory = nullptr};
    if ((extent.flags & kZero) != 0) {
      answer.head = hole_chunk(chunk, at, length);
    } else {
      answer.head = data_chunk(chunk, at, length);
      answer.data = job->data().data() + (at - request.offset);
      answer.data_bytes = length;
    }
    if (last && job != nullptr) {
      answer.held_bytes = job->held_bytes();
      answer.memory = job->take_memory();
    }
    answers_.push(std::move(answer));
    at += extent.length;
  }
}

// ---- what goes ----------------------------------------------------------------------------------

void Connection::send_success(const Request& request) {
  send(structured() ? none_chunk(request.cookie) : simple_reply(request.cookie, 0));
}

void Connection::send_error(const Request& request, int error) {
  send(structured() ? error_chunk(request.cookie, error, sentence_for(error))
                    : simple_reply(request.cookie, error));
}

void Connection::flush_answers() {
  const Moved::Outcome outcome = answers_.send(*transport_);
  if (outcome == Moved::Outcome::kEnded) return lost();
  if (outcome != Moved::Outcome::kSome) {
    send_needs_ = outcome;
    return;
  }
  if (phase_ == Phase::kBeforeTls) start_tls();
  if (ending_ && at_device_ == 0) close();
}

// What the client must do next, read or ask, wakes us.
void Connection::watch() {
  const auto needs = [this](Moved::Outcome what) {
    return (reads() && receive_needs_ == what) || (!answers_.empty() && send_needs_ == what);
  };
  const bool readable = needs(Moved::Outcome::kNeedsReadable);
  const bool writable = needs(Moved::Outcome::kNeedsWritable);
  // Neither while all that is to be done is at the disk.
  if (!readable && !writable) return unwatch();
  const WatchFor wanted = !writable  ? WatchFor::kReadable
                          : readable ? WatchFor::kReadableOrWritable
                                     : WatchFor::kWritable;
  if (watched_ && watched_for_ == wanted) return;
  unwatch();
  watched_ = true;
  watched_for_ = wanted;
  server_.config_.thread.watch(
      fd_.get(),
      [this] {
        go_on();
        if (closed() || !reads()) return;
        receive();
        go_on();
      },
      wanted);
}

void Connection::unwatch() {
  if (watched_) server_.config_.thread.unwatch(fd_.get());
  watched_ = false;
}

}  // namespace plumb::nbd
