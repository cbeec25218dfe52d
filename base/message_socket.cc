#include "base/message_socket.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace plumb {
namespace {

struct alignas(cmsghdr) Control {
  char bytes[CMSG_SPACE(kMaxMessageFds * sizeof(int))] = {};
};

std::vector<UniqueFd> take_descriptors(msghdr& header) {
  std::vector<UniqueFd> taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      taken.emplace_back(fd);
    }
  }
  return taken;
}

}  // namespace

Result<> send_message(int socket, std::span<const std::byte> message, std::span<const int> fds) {
  ENSURE(!message.empty() && fds.size() <= kMaxMessageFds);
  iovec content{.iov_base = const_cast<std::byte*>(message.data()), .iov_len = message.size()};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  Control control;
  if (!fds.empty()) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return os_error(errno, "a message of {} bytes cannot be sent", message.size());
  return {};
}

Result<ReceivedMessage> receive_message(int socket, size_t limit_bytes, size_t max_fds) {
  ReceivedMessage message;
  message.bytes.resize(limit_bytes);
  iovec content{.iov_base = message.bytes.data(), .iov_len = limit_bytes};
  Control control;
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  ssize_t received = -1;
  do {
    received = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return os_error(errno, "no message can be received");
  message.fds = take_descriptors(header);
  if ((header.msg_flags & MSG_TRUNC) != 0) {
    return failed("a message is longer than the {} bytes it may have", limit_bytes);
  }
  if ((header.msg_flags & MSG_CTRUNC) != 0 || message.fds.size() > max_fds) {
    return failed("a message comes with more descriptors than it may have, which is {}", max_fds);
  }
  message.bytes.resize(static_cast<size_t>(received));
  return message;
}

}  // namespace plumb
