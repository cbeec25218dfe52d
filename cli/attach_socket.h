// The socket by which a running VM is given disks: a message is a DiskDefinition and its source
// (source_message.h), whose descriptors come along; the answer is JSON, or an error.
//
// SOCK_SEQPACKET, mode 0600, one message of {"disk", "source"} a connection. The VM's process can
// open nothing itself: whoever may, opens, claims and locks, and claim and locks live on in the VM.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "cli/definition.h"
#include "cli/disk_source.h"

namespace plumb {

class AttachServer {
 public:
  static constexpr unsigned kMaxConnections = 8;  // more are closed at once
  static constexpr size_t kMaxMessageBytes = 65536;

  // Takes the disk; on the thread that runs the io_context.
  using Handler = std::function<Result<nlohmann::json>(const DiskDefinition&, DiskSource)>;

  static Result<std::unique_ptr<AttachServer>> listen(boost::asio::io_context& context,
                                                      const std::string& path, Handler handler);
  ~AttachServer();
  AttachServer(const AttachServer&) = delete;
  AttachServer& operator=(const AttachServer&) = delete;

 private:
  struct State;
  explicit AttachServer(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// Hands a disk to the VM whose socket is at `path`, and returns its answer, or the error that it
// had. Blocks.
Result<nlohmann::json> hand_over_disk(const std::string& path, const DiskDefinition& disk,
                                      const DiskSource& source);

}  // namespace plumb
