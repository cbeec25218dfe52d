#include "blockdev/nbd/transport.h"

#include <sys/socket.h>

#include <cerrno>

namespace plumb::nbd {
namespace {

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(int fd) : fd_(fd) {}

  Moved receive(std::span<std::byte> to) override {
    const ssize_t got = ::recv(fd_, to.data(), to.size(), MSG_DONTWAIT);
    return moved(got, Moved::Outcome::kNeedsReadable);
  }

  Moved send(std::span<const iovec> from) override {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(from.data());
    message.msg_iovlen = from.size();
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return moved(sent, Moved::Outcome::kNeedsWritable);
  }

  bool pending() const override { return false; }
  const std::string& failure() const override { return failure_; }

 private:
  static Moved moved(ssize_t bytes, Moved::Outcome when_blocked) {
    if (bytes > 0) return {Moved::Outcome::kSome, static_cast<size_t>(bytes)};
    const bool blocked = bytes < 0 && (errno == EAGAIN || errno == EINTR);
    return {blocked ? when_blocked : Moved::Outcome::kEnded, 0};
  }

  const int fd_;
  const std::string failure_;
};

}  // namespace

std::unique_ptr<Transport> make_plain_transport(int fd) {
  return std::make_unique<PlainTransport>(fd);
}

}  // namespace plumb::nbd
