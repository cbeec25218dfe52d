// Serves a device to NBD clients, read-only. One connection per client, several at once, all on the
// device's I/O thread; requests of a connection run at the same time and are answered as they end.
//
// What clients send is checked in protocol.h; what makes no sense ends their connection, and nobody
// else's. A client that does not read its answers is not read from, and keeps no more memory than
// kMaxHeldBytes and one request.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/block_device.h"
#include "blockdev/io_thread.h"

namespace plumb::nbd {

class Connection;

class Server {
 public:
  static constexpr size_t kMaxConnections = 16;
  static constexpr uint32_t kMaxRequestBytes = 32U << 20U;  // what clients assume
  static constexpr uint64_t kMaxHeldBytes = 32U << 20U;     // of a connection's requests

  struct Config {
    UniqueFd listener;  // non-blocking
    std::string name;   // of the export; "" asks for it, too
    BlockDevice& device;
    IoThread& thread;  // the device's; both outlive the server
  };

  // Serves from here on. Not on the I/O thread.
  explicit Server(Config config);
  // Ends all connections, and waits until nothing of theirs is at the device. Not on the I/O
  // thread.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  friend class Connection;
  void accept_all();
  void remove(Connection& connection);

  Config config_;
  // Only on the I/O thread.
  std::vector<std::unique_ptr<Connection>> connections_;
  std::function<void()> empty_;  // called when the last connection has ended
};

}  // namespace plumb::nbd
