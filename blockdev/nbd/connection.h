// One client of an NBD server, from its greeting to its end.
#pragma once

#include <deque>
#include <memory>

#include "base/aligned_memory.h"
#include "base/unique_fd.h"
#include "blockdev/nbd/protocol.h"
#include "blockdev/nbd/server.h"

namespace plumb::nbd {

// Only on the server's I/O thread.
class Connection {
 public:
  Connection(Server& server, UniqueFd fd);
  ~Connection();

  // No more of it; gone (Server::remove()) when nothing of it is at the device.
  void close();
  bool closed() const { return !fd_.valid(); }

 private:
  struct Read;
  struct Answer;
  enum class Phase : uint8_t { kClientFlags, kOptions, kTransmission };

  void ready();
  void go_on();
  void receive();
  // One message of what has been received; false when more is needed, or nothing may be taken now.
  bool take_message();
  void take_client_flags();
  bool take_option();
  void answer_option(uint32_t number, std::span<const std::byte> data);
  bool take_request();
  void start_read(const Request& request);
  static void read_done(BlockRequest& request);
  // What has been received and not taken.
  std::span<const std::byte> waiting() const { return std::span(received_).subspan(taken_); }

  void send(Bytes head);
  void reply(uint64_t cookie, int error);
  void flush_answers();
  void watch();
  void fail(const std::string& why);

  ExportFacts facts() const;
  bool is_export(const std::string& name) const;
  // Whether it may ask for something now.
  bool takes_more() const;

  Server& server_;
  UniqueFd fd_;  // none: closed
  Phase phase_ = Phase::kClientFlags;
  bool no_zeroes_ = false;
  bool ending_ = false;  // takes no more; closed when the last answer has left
  Bytes received_;
  size_t taken_ = 0;   // of it
  uint64_t skip_ = 0;  // bytes of a refused write that are still to come
  std::deque<Answer> answers_;
  uint64_t held_bytes_ = 0;  // of reads at the device, and of answers
  size_t at_device_ = 0;
  bool watched_ = false;
  WatchFor watched_for_ = WatchFor::kReadable;
};

}  // namespace plumb::nbd
