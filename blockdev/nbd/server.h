// Serves disks to NBD clients. One connection per client, several at once, all on the disks' I/O
// thread; requests of a connection run at the same time and are answered as they end.
//
// What clients send is checked in protocol.h and negotiation.h; what makes no sense ends their
// connection, and nobody else's. A client that does not read its answers is not read from, and
// keeps no more memory than kMaxHeldBytes and one request; one that does not get to transmission in
// time is cut off.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/disk.h"
#include "blockdev/io_thread.h"
#include "blockdev/nbd/extents.h"
#include "blockdev/nbd/negotiation.h"
#include "blockdev/nbd/transport.h"

namespace plumb::nbd {

class Connection;

// A disk as clients see it.
struct Export {
  std::string name;
  Disk* disk = nullptr;
  bool writable = false;               // and the disk is not read-only
  ExtentSource* allocation = nullptr;  // for "base:allocation"; none: all is data
  struct Bitmap {
    std::string name;
    ExtentSource* source = nullptr;
  };
  std::vector<Bitmap> bitmaps;  // "qemu:dirty-bitmap:NAME"

  ExportFacts facts() const;
  std::vector<std::string> contexts() const;
  // By its place in contexts(); nullptr: all is data.
  ExtentSource* source_of(uint32_t context) const;
};

class Server {
 public:
  // For one more, one that has not chosen an export yet is cut off.
  static constexpr size_t kMaxConnections = 16;
  static constexpr uint32_t kMaxRequestBytes = 32U << 20U;   // of data; what clients assume
  static constexpr uint64_t kMaxHeldBytes = 32U << 20U;      // of a connection's requests
  static constexpr size_t kMaxRequests = 1024;               // of a connection, at the disk
  static constexpr int64_t kNegotiationNs = 10'000'000'000;  // from accept to transmission
  // Of a context in one answer: 8 KiB of it, and as many look-ups.
  static constexpr size_t kMaxExtents = 1024;
  // Of one read: more are read with the holes between them.
  static constexpr size_t kMaxReadExtents = 64;

  struct Config {
    UniqueFd listener;            // non-blocking
    std::vector<Export> exports;  // all of different names; "" asks for the only one, too
    IoThread& thread;             // the disks'; it and all of the exports outlive the server
    TlsAcceptor* tls = nullptr;   // then nobody is served without it; outlives the server
    int64_t negotiation_ns = kNegotiationNs;
  };

  // Serves from here on. Not on the I/O thread.
  explicit Server(Config config);
  // Ends all connections, and waits until nothing of theirs is at the disks. Not on the I/O
  // thread.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  friend class Connection;
  void accept_all();
  void make_room();
  void remove(Connection& connection);
  std::vector<Offer> offers() const;

  Config config_;
  // Only on the I/O thread.
  std::vector<std::unique_ptr<Connection>> connections_;
  std::function<void()> empty_;  // called when the last connection has ended
};

}  // namespace plumb::nbd
