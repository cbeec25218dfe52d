// CharBackend: the outside end of a byte stream that a guest device (16550, virtio-console port)
// offers: a terminal, a Unix socket.
//
// Flow control goes both ways and nothing blocks: each side takes what it can and says later that
// it can take more. Both interfaces may be called from any thread, but never with a lock held
// that the other side's methods take.
#pragma once

#include <cstddef>
#include <span>

namespace plumb {

// The guest device's end.
class CharFrontend {
 public:
  virtual ~CharFrontend() = default;
  // Bytes for the guest; returns how many were taken. When fewer than all, the backend keeps the
  // rest and waits for CharBackend::frontend_ready().
  virtual size_t receive(std::span<const std::byte> data) = 0;
  // The backend has room again after a short write().
  virtual void backend_ready() = 0;
  // Someone is, or is no longer, at the other end.
  virtual void connection_changed(bool connected) = 0;
};

class CharBackend {
 public:
  virtual ~CharBackend() = default;
  // Bytes from the guest; returns how many were taken. A backend without a reader takes and drops
  // them. When fewer than all, backend_ready() follows.
  virtual size_t write(std::span<const std::byte> data) = 0;
  // The front end can receive again after it took fewer bytes than it was given.
  virtual void frontend_ready() = 0;
  // Connects the device, or disconnects it (nullptr); after a disconnect returns, its methods are
  // not called any more. Calls connection_changed() at once when someone is connected.
  virtual void attach(CharFrontend* frontend) = 0;
};

}  // namespace plumb
