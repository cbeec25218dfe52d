#include "vmm/char_hub.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/unix_socket.h"

namespace plumb {
namespace {

// Terminals, pipes and sockets can be waited for; regular files and /dev/null cannot, and never
// make a writer wait either.
bool can_be_watched(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return false;
  return S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode) || ::isatty(fd) != 0;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

Result<std::unique_ptr<CharHub>> CharHub::open(Config config, IoThread& thread) {
  std::unique_ptr<CharHub> hub(new CharHub(std::move(config), thread));
  if (!hub->config_.socket_path.empty()) TRY(hub->listen());
  // Posted, here and in listen(), so that a VM's start need not wait for the thread: the
  // destructor's task comes after these.
  if (hub->config_.output_fd >= 0) thread.post([hub = hub.get()] { hub->add_terminal(); });
  return hub;
}

CharHub::~CharHub() {
  thread_.run([this] {
    if (listener_) thread_.unwatch(listener_.get());
    drain_terminal();
    while (!clients_.empty()) drop_client(*clients_.back());
  });
  if (listener_) ::unlink(config_.socket_path.c_str());
}

Result<> CharHub::listen() {
  listener_ = TRY(listen_unix(config_.socket_path, static_cast<int>(config_.max_clients)));
  thread_.post([this] { thread_.watch(listener_.get(), [this] { accept_client(); }); });
  return {};
}

void CharHub::add_terminal() {
  auto client = std::make_unique<Client>();
  client->in = config_.input_fd >= 0 && can_be_watched(config_.input_fd) ? config_.input_fd : -1;
  client->out = config_.output_fd;
  client->out_watchable = can_be_watched(client->out);
  client->terminal = true;
  add_client(std::move(client));
}

void CharHub::accept_client() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;  // the client went away again
  const auto of_socket = std::count_if(clients_.begin(), clients_.end(),
                                       [](const auto& client) { return !client->terminal; });
  const bool taken = std::any_of(clients_.begin(), clients_.end(),
                                 [](const auto& client) { return client->sole; });
  if (taken || static_cast<size_t>(of_socket) >= config_.max_clients) return;
  static_cast<void>(add_socket(std::move(socket), false));  // without descriptors, it is closed
}

Result<UniqueFd> CharHub::take_over() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return os_error(errno, "a pair of sockets cannot be made");
  }
  UniqueFd ours(ends[0]);
  UniqueFd inner(ends[1]);
  Result<> added;
  thread_.run([&] {
    for (size_t i = clients_.size(); i-- > 0;) {
      if (!clients_[i]->terminal) drop_client(*clients_[i]);
    }
    added = add_socket(std::move(inner), true);
  });
  TRY(added);
  return ours;
}

Result<> CharHub::add_socket(UniqueFd socket, bool sole) {
  auto client = std::make_unique<Client>();
  client->sole = sole;
  // A watch is for one descriptor and one direction, so the two directions have one each.
  client->out_socket = UniqueFd(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
  if (!client->out_socket) return os_error(errno, "a socket cannot be used twice");
  client->in = socket.get();
  client->out = client->out_socket.get();
  client->out_watchable = true;
  client->in_socket = std::move(socket);
  add_client(std::move(client));
  return {};
}

void CharHub::add_client(std::unique_ptr<Client> client) {
  Client& added = *client;
  {
    const std::scoped_lock lock(mutex_);
    added.pending_out = history_;
    clients_.push_back(std::move(client));
  }
  update_watch(added);
  tell_connection();
  flush();
}

void CharHub::drop_client(Client& client) {
  if (client.watched_in) thread_.unwatch(client.in);
  if (client.watched_out) thread_.unwatch(client.out);
  {
    const std::scoped_lock lock(mutex_);
    std::erase_if(clients_, [&client](const auto& one) { return one.get() == &client; });
  }
  tell_connection();
}

// Reads while the guest takes the bytes, and waits for room while output is pending.
void CharHub::update_watch(Client& client) {
  bool want_out = false;
  {
    const std::scoped_lock lock(mutex_);
    want_out = !client.pending_out.empty() && client.out_watchable;
  }
  const bool want_in = client.in >= 0 && client.pending_in.empty();
  if (want_in != client.watched_in) {
    if (want_in) thread_.watch(client.in, [this, &client] { read_from(client); });
    if (!want_in) thread_.unwatch(client.in);
    client.watched_in = want_in;
  }
  if (want_out != client.watched_out) {
    if (want_out)
      thread_.watch(
          client.out, [this, &client] { flush_client(client); }, WatchFor::kWritable);
    if (!want_out) thread_.unwatch(client.out);
    client.watched_out = want_out;
  }
}

void CharHub::read_from(Client& client) {
  if (client.in < 0 || !client.pending_in.empty()) return;
  char buffer[4096];
  const ssize_t done = client.terminal ? ::read(client.in, buffer, sizeof(buffer))
                                       : ::recv(client.in, buffer, sizeof(buffer), MSG_DONTWAIT);
  if (done < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (done <= 0) {
    if (!client.terminal) return drop_client(client);
    if (client.watched_in) thread_.unwatch(client.in);  // end of the terminal's input
    client.watched_in = false;
    client.in = -1;
    return;
  }
  client.pending_in.assign(buffer, static_cast<size_t>(done));
  if (client.terminal && config_.on_escape) {
    if (std::erase(client.pending_in, kEscape) > 0) config_.on_escape();
  }
  deliver(client);
}

void CharHub::deliver(Client& client) {
  if (frontend_ == nullptr) {
    client.pending_in.clear();  // as on a real machine: nobody listens to the line
  } else if (!client.pending_in.empty()) {
    client.pending_in.erase(0, frontend_->receive(bytes_of(client.pending_in)));
  }
  update_watch(client);
}

size_t CharHub::write(std::span<const std::byte> data) {
  const std::scoped_lock lock(mutex_);
  size_t take = data.size();
  for (const auto& client : clients_) {
    if (config_.lossy && !client->terminal) continue;
    take = std::min(take, kBufferBytes - std::min(kBufferBytes, client->pending_out.size()));
  }
  writer_waits_ = take < data.size();
  const auto* text = reinterpret_cast<const char*>(data.data());
  for (const auto& client : clients_) {
    if (client->pending_out.size() + take <= kBufferBytes) client->pending_out.append(text, take);
  }
  remember(data.first(take));
  if (!clients_.empty()) schedule_flush();
  return take;
}

void CharHub::remember(std::span<const std::byte> data) {
  if (!config_.lossy) return;
  history_.append(reinterpret_cast<const char*>(data.data()), data.size());
  // Trimmed by half, so that the cost per byte stays small.
  if (history_.size() > kBufferBytes) history_.erase(0, history_.size() - kBufferBytes / 2);
}

void CharHub::schedule_flush() {
  if (std::exchange(flush_posted_, true)) return;
  thread_.post([this] { flush(); });
}

void CharHub::flush() {
  {
    const std::scoped_lock lock(mutex_);
    flush_posted_ = false;
  }
  // flush_client may drop the client it is given.
  for (size_t i = clients_.size(); i-- > 0;) flush_client(*clients_[i]);
}

// Returns false when the client is gone.
bool CharHub::flush_client(Client& client) {
  std::string chunk;
  while (true) {
    {
      const std::scoped_lock lock(mutex_);
      // A pipe that is ready takes this much without blocking (pipe(7), PIPE_BUF).
      chunk = client.pending_out.substr(0, 4096);
    }
    if (chunk.empty()) break;
    const ssize_t done = client.terminal ? ::write(client.out, chunk.data(), chunk.size())
                                         : ::send(client.out, chunk.data(), chunk.size(),
                                                  MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) break;
    if (done < 0) {
      drop_client(client);
      return false;
    }
    const std::scoped_lock lock(mutex_);
    client.pending_out.erase(0, static_cast<size_t>(done));
    if (client.terminal && client.out_watchable) break;  // the next piece when it is ready
  }
  update_watch(client);
  bool room = false;
  {
    const std::scoped_lock lock(mutex_);
    room = std::exchange(writer_waits_, false);
  }
  if (room && frontend_ != nullptr) frontend_->backend_ready();
  return true;
}

// The last words of a guest matter most: waits, but not for ever, for a terminal that is slow.
void CharHub::drain_terminal() {
  constexpr int kTerminalStallMs = 1000;
  flush();
  for (const auto& client : clients_) {
    if (!client->terminal) continue;
    pollfd ready{client->out, POLLOUT, 0};
    while (!client->pending_out.empty() && ::poll(&ready, 1, kTerminalStallMs) > 0) {
      if (!flush_client(*client)) return;
    }
    return;
  }
}

void CharHub::frontend_ready() {
  thread_.post([this] {
    for (size_t i = clients_.size(); i-- > 0;) {
      if (!clients_[i]->pending_in.empty()) deliver(*clients_[i]);
    }
  });
}

void CharHub::attach(CharFrontend* frontend) {
  thread_.run([this, frontend] {
    frontend_ = frontend;
    told_connected_ = false;
    tell_connection();
  });
}

void CharHub::tell_connection() {
  const bool connected = !clients_.empty();
  if (frontend_ == nullptr || connected == told_connected_) return;
  told_connected_ = connected;
  frontend_->connection_changed(connected);
}

}  // namespace plumb
