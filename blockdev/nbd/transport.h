// Transport: the bytes of one client's connection, plain or under TLS, never blocking.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/unique_fd.h"

namespace plumb::nbd {

// What became of a call that moves bytes.
struct Moved {
  enum class Outcome : uint8_t {
    kSome,           // `bytes`, at least one
    kNeedsReadable,  // nothing; again when the socket is readable
    kNeedsWritable,  // nothing; again when it is writable
    kEnded,          // the client has gone, or makes no sense: Transport::failure()
  };
  Outcome outcome = Outcome::kEnded;
  size_t bytes = 0;
};

// Only on the server's I/O thread. A call that moved nothing and was not the end is made again with
// the same bytes, or more.
class Transport {
 public:
  virtual ~Transport() = default;

  // Into `to`, of 16 KiB or more unless pending() says that there is less.
  virtual Moved receive(std::span<std::byte> to) = 0;
  // Of up to two parts, of which the first may be empty.
  virtual Moved send(std::span<const iovec> from) = 0;
  // Whether receive() has bytes at hand that make no socket readable.
  virtual bool pending() const = 0;
  // Why it ended; "" when the client only went.
  virtual const std::string& failure() const = 0;
};

// The socket itself; `fd` outlives it.
std::unique_ptr<Transport> make_plain_transport(int fd);

// Makes the TLS side of connections; server.h takes one. A seam, so that what serves without TLS
// links no TLS library.
class TlsAcceptor {
 public:
  virtual ~TlsAcceptor() = default;
  // From here on, of a client that is about to begin with TLS; `fd`, and this, outlive it.
  virtual std::unique_ptr<Transport> accept(int fd) = 0;
};

}  // namespace plumb::nbd
