#include "vmm/char_hub.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <condition_variable>

#include "base/unix_socket.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A guest device that takes everything, or only so much, and remembers what it was told.
class FakeFrontend : public CharFrontend {
 public:
  size_t receive(std::span<const std::byte> data) override {
    const std::scoped_lock lock(mutex_);
    const size_t take = std::min(data.size(), room_);
    room_ -= take;
    received_.append(reinterpret_cast<const char*>(data.data()), take);
    changed_.notify_all();
    return take;
  }
  void backend_ready() override {
    const std::scoped_lock lock(mutex_);
    ready_ = true;
    changed_.notify_all();
  }
  void connection_changed(bool connected) override {
    const std::scoped_lock lock(mutex_);
    connected_ = connected;
    changed_.notify_all();
  }

  void set_room(size_t room) {
    const std::scoped_lock lock(mutex_);
    room_ = room;
  }
  void wait_received(const std::string& text) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return received_ == text; });
  }
  void wait_connected(bool connected) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return connected_ == connected; });
  }
  void wait_ready() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return std::exchange(ready_, false); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string received_;
  size_t room_ = SIZE_MAX;
  bool connected_ = false;
  bool ready_ = false;
};

struct Rig {
  explicit Rig(bool lossy, size_t max_clients = 1) {
    thread = IoThread::start({.name = "test", .engine = EngineKind::kLibaio}).value();
    hub = CharHub::open({.socket_path = path, .max_clients = max_clients, .lossy = lossy}, *thread)
              .value();
    hub->attach(&frontend);
  }
  ~Rig() { hub->attach(nullptr); }

  UniqueFd connect() const { return connect_unix(path).value(); }

  TemporaryFolder folder;
  std::string path = folder.path() + "/sock";
  FakeFrontend frontend;
  std::unique_ptr<IoThread> thread;
  std::unique_ptr<CharHub> hub;
};

std::string read_exactly(int fd, size_t count) {
  std::string text(count, '\0');
  REQUIRE(::recv(fd, text.data(), count, MSG_WAITALL) == static_cast<ssize_t>(count));
  return text;
}

}  // namespace

TEST_CASE("bytes go both ways between guest and client") {
  Rig rig(false);
  const UniqueFd client = rig.connect();
  rig.frontend.wait_connected(true);
  CHECK(rig.hub->write(bytes("hello")) == 5);
  CHECK(read_exactly(client.get(), 5) == "hello");
  REQUIRE(::send(client.get(), "guest", 5, 0) == 5);
  rig.frontend.wait_received("guest");
}

TEST_CASE("the guest is told when the client goes") {
  Rig rig(false);
  UniqueFd client = rig.connect();
  rig.frontend.wait_connected(true);
  client.reset();
  rig.frontend.wait_connected(false);
}

TEST_CASE("the socket is private, and gone with the hub") {
  auto rig = std::make_unique<Rig>(false);
  struct stat status {};
  REQUIRE(::stat(rig->path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  rig->hub->attach(nullptr);
  rig->hub = CharHub::open({.socket_path = rig->path + "2"}, *rig->thread).value();
  CHECK(::stat(rig->path.c_str(), &status) != 0);
}

TEST_CASE("a client too many is closed") {
  Rig rig(false);
  const UniqueFd first = rig.connect();
  rig.frontend.wait_connected(true);
  const UniqueFd second = rig.connect();
  char byte = 0;
  CHECK(::recv(second.get(), &byte, 1, 0) == 0);
  CHECK(rig.hub->write(bytes("x")) == 1);
  CHECK(read_exactly(first.get(), 1) == "x");
}

TEST_CASE("a guest that is full gets the rest when it is ready") {
  Rig rig(false);
  rig.frontend.set_room(2);
  const UniqueFd client = rig.connect();
  REQUIRE(::send(client.get(), "abcdef", 6, 0) == 6);
  rig.frontend.wait_received("ab");
  rig.frontend.set_room(SIZE_MAX);
  rig.hub->frontend_ready();
  rig.frontend.wait_received("abcdef");
}

TEST_CASE("a slow client makes the guest wait, and loses nothing") {
  Rig rig(false);
  const UniqueFd client = rig.connect();
  rig.frontend.wait_connected(true);
  // Until socket and hub are full.
  size_t sent = 0;
  const std::string piece(8192, 'x');
  size_t taken = 0;
  while ((taken = rig.hub->write(bytes(piece))) == piece.size()) sent += taken;
  sent += taken;
  CHECK(taken < piece.size());
  CHECK(read_exactly(client.get(), sent) == std::string(sent, 'x'));
  rig.frontend.wait_ready();
  CHECK(rig.hub->write(bytes("end")) == 3);
  CHECK(read_exactly(client.get(), 3) == "end");
}

TEST_CASE("a slow client of a lossy hub does not hold the guest up") {
  Rig rig(true, 2);
  const UniqueFd slow = rig.connect();
  rig.frontend.wait_connected(true);
  const std::string piece(8192, 'x');
  for (int i = 0; i < 512; ++i) CHECK(rig.hub->write(bytes(piece)) == piece.size());
}

TEST_CASE("a new client of a lossy hub sees the latest output") {
  Rig rig(true);
  CHECK(rig.hub->write(bytes("login: ")) == 7);
  const UniqueFd client = rig.connect();
  CHECK(read_exactly(client.get(), 7) == "login: ");
}

TEST_CASE("without a reader the guest's output is taken and dropped") {
  Rig rig(false);
  const std::string piece(8192, 'x');
  for (int i = 0; i < 64; ++i) CHECK(rig.hub->write(bytes(piece)) == piece.size());
}

}  // namespace plumb
