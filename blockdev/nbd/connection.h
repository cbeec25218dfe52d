// One client of an NBD server, from its greeting to its end.
#pragma once

#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "blockdev/io_engine.h"
#include "blockdev/nbd/answer_queue.h"
#include "blockdev/nbd/job.h"
#include "blockdev/nbd/negotiation.h"
#include "blockdev/nbd/protocol.h"
#include "blockdev/nbd/server.h"
#include "blockdev/nbd/transport.h"

namespace plumb::nbd {

// Only on the server's I/O thread.
class Connection {
 public:
  Connection(Server& server, UniqueFd fd);
  ~Connection();

  // No more of it; gone (Server::remove()) when nothing of it is at the disk.
  void close();
  bool closed() const { return !fd_.valid(); }
  // The same, with a line of the log.
  void fail(const std::string& why);
  bool negotiates() const { return !closed() && phase_ != Phase::kTransmission; }

 private:
  enum class Phase : uint8_t { kClientFlags, kOptions, kBeforeTls, kTransmission };

  void go_on();
  void go_on_later();
  void receive();
  bool take_pending();
  // One message of what has been received; false when more is needed, or nothing may be taken now.
  bool take_message();
  bool take_client_flags();
  bool take_option();
  bool take_data();
  bool take_request();
  void act(const Negotiation::Step& step);
  void start_tls();
  void start(const Request& request);
  void refuse(const Request& request, int error);
  void send_status(const Request& request);
  // What has been received and not taken.
  std::span<const std::byte> waiting() const { return std::span(received_).subspan(taken_); }

  void submit(std::unique_ptr<Job> job);
  void ended(std::unique_ptr<Job> job);
  ExtentList extents_for(const Request& request) const;
  void send_read(Job& job);
  void send_chunks(const Request& request, std::span<const Extent> extents, Job* job);
  void send(Bytes head) { answers_.push({.head = std::move(head), .memory = nullptr}); }
  void send_success(const Request& request);
  void send_error(const Request& request, int error);
  void flush_answers();
  void watch();
  void unwatch();
  void lost();

  const Export& chosen() const { return server_.config_.exports[negotiation_.chosen()]; }
  bool structured() const { return negotiation_.agreed().structured; }
  // Whether it may ask for something now, and whether bytes of it are taken.
  bool takes_more() const;
  bool reads() const;

  Server& server_;
  UniqueFd fd_;  // none: closed
  std::unique_ptr<Transport> transport_;
  Phase phase_ = Phase::kClientFlags;
  Negotiation negotiation_;
  IoTimer deadline_;     // of the negotiation
  bool ending_ = false;  // takes no more; closed when the last answer has left
  Bytes received_;
  size_t taken_ = 0;            // of it
  uint64_t skip_ = 0;           // bytes of a refused write that are still to come
  std::unique_ptr<Job> write_;  // whose data is still to come
  size_t write_bytes_ = 0;      // of its data, that have come
  AnswerQueue answers_;
  uint64_t held_bytes_ = 0;  // of jobs
  size_t at_device_ = 0;     // jobs, and later_
  IoOp later_;               // goes on
  bool later_asked_ = false;
  // What the transport needs to go on in each direction.
  Moved::Outcome receive_needs_ = Moved::Outcome::kNeedsReadable;
  Moved::Outcome send_needs_ = Moved::Outcome::kNeedsWritable;
  bool watched_ = false;
  WatchFor watched_for_ = WatchFor::kReadable;
};

}  // namespace plumb::nbd
