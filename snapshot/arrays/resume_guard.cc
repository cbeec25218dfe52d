#include "snapshot/arrays/resume_guard.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

namespace plumb {
namespace {

constexpr char kBegin = 'b';
constexpr char kEnd = 'e';

// The next word of the process that is guarded; 0 when it is gone, or `limit_ms` are over.
char next_word(int socket, int limit_ms) {
  pollfd polled{socket, POLLIN, 0};
  int ready = 0;
  while ((ready = ::poll(&polled, 1, limit_ms)) < 0 && errno == EINTR) {
  }
  char word = 0;
  return ready > 0 && ::read(socket, &word, 1) == 1 ? word : 0;
}

// In the guard's own process: 1 when it had to step in.
int guard(int socket, const std::function<void()>& resume, unsigned limit_ms) {
  if (next_word(socket, -1) != kBegin) return 0;
  if (next_word(socket, static_cast<int>(limit_ms)) == kEnd) return 0;
  resume();
  return 1;
}

// The other descriptors are the parent's: while we had them, its locks and connections would
// outlive it.
void keep_only(int fd) {
  if (fd > 3) ::close_range(3, static_cast<unsigned>(fd) - 1, 0);
  ::close_range(static_cast<unsigned>(fd) + 1, ~0U, 0);
}

}  // namespace

Result<ResumeGuard> ResumeGuard::make(const std::function<void()>& resume, unsigned limit_ms) {
  // Not a pipe, whose writer would be killed by SIGPIPE when the guard is gone.
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return os_error(errno, "a pair of sockets cannot be made");
  }
  UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return os_error(errno, "a process to guard a freeze cannot be made");
  if (pid == 0) {
    // Signals to the group of a terminal are for the parent.
    ::setsid();
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_IGN);
    keep_only(theirs.get());
    ::_exit(guard(theirs.get(), resume, limit_ms));
  }
  return ResumeGuard(std::move(ours), pid);
}

ResumeGuard::~ResumeGuard() {
  socket_.reset();
  if (pid_ > 0) wait();
}

void ResumeGuard::begin() {
  // A guard that is gone is found out by end().
  static_cast<void>(::send(socket_.get(), &kBegin, 1, MSG_NOSIGNAL) == 1);
}

bool ResumeGuard::end() {
  static_cast<void>(::send(socket_.get(), &kEnd, 1, MSG_NOSIGNAL) == 1);
  socket_.reset();
  return wait() == 0;
}

int ResumeGuard::wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

}  // namespace plumb
