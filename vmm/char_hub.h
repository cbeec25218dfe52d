// CharHub: the outside end of a console or of the guest agent's port: a Unix socket with one or
// several clients, and for a VM in the foreground the terminal.
//
// Client policy: a `lossy` hub never lets a slow reader of its socket hold the guest up; what does
// not fit its buffer is dropped for that reader. The terminal, and the clients of a hub that is not
// lossy, get every byte; the guest's device waits for them. A new client of a lossy hub first gets
// the latest output again. Buffers are bounded (kBufferBytes each way and client).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/io_thread.h"
#include "vmm/char_backend.h"

namespace plumb {

class CharHub : public CharBackend {
 public:
  struct Config {
    std::string socket_path;  // made with mode 0600; removed when the hub goes
    size_t max_clients = 1;   // of the socket; more are closed at once
    bool lossy = false;
    // The terminal, for a VM in the foreground: descriptors that stay the caller's; -1 for none.
    int input_fd = -1;
    int output_fd = -1;
    // Called on the I/O thread when kEscape is typed on the terminal; it is not sent to the guest.
    std::function<void()> on_escape;
  };
  static constexpr size_t kBufferBytes = size_t{64} * 1024;
  static constexpr char kEscape = 0x1d;  // Ctrl-]

  // `thread` outlives the hub.
  static Result<std::unique_ptr<CharHub>> open(Config config, IoThread& thread);
  // Sends what is still buffered for the terminal.
  ~CharHub() override;

  // A connection of this process's own, a blocking stream socket: clients of the socket are closed,
  // and so are new ones, until the caller closes it. Any thread but the hub's.
  Result<UniqueFd> take_over();

  size_t write(std::span<const std::byte> data) override;
  void frontend_ready() override;
  void attach(CharFrontend* frontend) override;

 private:
  struct Client {
    UniqueFd in_socket;  // one socket, two descriptors; invalid for the terminal
    UniqueFd out_socket;
    int in = -1;
    int out = -1;
    bool terminal = false;
    bool sole = false;  // of take_over()
    bool out_watchable = false;
    bool watched_in = false;
    bool watched_out = false;
    std::string pending_in;   // for the guest
    std::string pending_out;  // from the guest; guarded by mutex_, the rest is the I/O thread's
  };

  CharHub(Config config, IoThread& thread) : config_(std::move(config)), thread_(thread) {}
  Result<> listen();
  void add_terminal();
  void accept_client();
  Result<> add_socket(UniqueFd socket, bool sole);
  void add_client(std::unique_ptr<Client> client);
  void drop_client(Client& client);
  void update_watch(Client& client);
  void read_from(Client& client);
  void deliver(Client& client);
  void schedule_flush();
  void flush();
  bool flush_client(Client& client);
  void drain_terminal();
  void tell_connection();
  void remember(std::span<const std::byte> data);

  const Config config_;
  IoThread& thread_;
  UniqueFd listener_;

  // Guards what write() and the I/O thread share: clients_, their pending_out, history_, flags.
  std::mutex mutex_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::string history_;  // the latest output, for new clients of a lossy hub
  bool flush_posted_ = false;
  bool writer_waits_ = false;  // write() took less than it was given

  // I/O thread only.
  CharFrontend* frontend_ = nullptr;
  bool told_connected_ = false;
};

}  // namespace plumb
