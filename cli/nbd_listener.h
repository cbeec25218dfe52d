// Where `plumb nbd serve` is reached: a Unix socket of its user's own, or a TCP address.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// A Unix socket's file, which goes with this, but not when another has taken its place.
class SocketFile {
 public:
  explicit SocketFile(std::string path);
  ~SocketFile();
  SocketFile(SocketFile&& other) noexcept;
  SocketFile& operator=(SocketFile&&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;  // "": none
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

struct NbdListener {
  UniqueFd fd;
  SocketFile file;      // without a path at a TCP address
  std::string address;  // "127.0.0.1:10809"; "" at a Unix socket
};

// A socket that nobody serves at any more is replaced. Error kLocked: somebody does. Errors: what
// is there is no socket.
Result<NbdListener> listen_at_socket(const std::string& path);

// "127.0.0.1:10809", "[::1]:10809"; "10809" is that port of 127.0.0.1. `guarded`: who connects must
// know a key; without, only this host may be let in.
Result<NbdListener> listen_at_address(const std::string& address, bool guarded);

// "nbd+unix:///NAME?socket=PATH", "nbds://127.0.0.1:10809/NAME": what clients are given.
std::string nbd_uri(const NbdListener& listener, const std::string& name, bool tls);

}  // namespace plumb
