#include "base/message_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>

namespace plumb {
namespace {

const std::vector<std::byte> kShort{std::byte{1}, std::byte{2}};

}  // namespace

TEST_CASE("a message brings its descriptors, in their order") {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  const UniqueFd one(ends[0]);
  const UniqueFd other(ends[1]);
  int pipe_ends[2];
  REQUIRE(::pipe2(pipe_ends, O_CLOEXEC) == 0);
  const UniqueFd reader(pipe_ends[0]);
  const UniqueFd writer(pipe_ends[1]);
  REQUIRE(send_message(one.get(), kShort, pipe_ends).ok());
  Result<ReceivedMessage> message = receive_message(other.get(), 64, 2);
  REQUIRE(message.ok());
  CHECK(message->bytes == kShort);
  REQUIRE(message->fds.size() == 2);
  CHECK(::write(message->fds[1].get(), "x", 1) == 1);
  char byte = 0;
  CHECK(::read(message->fds[0].get(), &byte, 1) == 1);
  CHECK(byte == 'x');
}

TEST_CASE("a message with several descriptors is refused, and they are closed") {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  const UniqueFd one(ends[0]);
  const UniqueFd other(ends[1]);
  for (const int count : {2, 4, 200}) {
    int pipe_ends[2];
    REQUIRE(::pipe2(pipe_ends, O_CLOEXEC) == 0);
    UniqueFd reader(pipe_ends[0]);
    std::vector<char> control(CMSG_SPACE(sizeof(int) * static_cast<size_t>(count)));
    char byte = 'x';
    iovec content{.iov_base = &byte, .iov_len = 1};
    msghdr header{};
    header.msg_iov = &content;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int) * static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      std::memcpy(CMSG_DATA(part) + static_cast<size_t>(i) * sizeof(int), &pipe_ends[1],
                  sizeof(int));
    }
    REQUIRE(::sendmsg(one.get(), &header, 0) == 1);
    ::close(pipe_ends[1]);
    Result<ReceivedMessage> message = receive_message(other.get(), 64);
    REQUIRE_FALSE(message.ok());
    CHECK(message.error().message ==
          "a message comes with more descriptors than it may have, which is 1");
    // No writer is left: the pipe is at its end.
    CHECK(::read(reader.get(), &byte, 1) == 0);
  }
}

TEST_CASE("a message that is too long is refused, and the next one is whole") {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  const UniqueFd one(ends[0]);
  UniqueFd other(ends[1]);
  const std::vector<std::byte> message(65);
  REQUIRE(send_message(one.get(), message).ok());
  REQUIRE(send_message(one.get(), kShort).ok());
  CHECK_FALSE(receive_message(other.get(), 64).ok());
  Result<ReceivedMessage> next = receive_message(other.get(), 64);
  REQUIRE(next.ok());
  CHECK(next->bytes == kShort);
  other.reset();
  Result<> closed = send_message(one.get(), message);
  REQUIRE_FALSE(closed.ok());
  CHECK(closed.error().os_errno == EPIPE);
}

}  // namespace plumb
