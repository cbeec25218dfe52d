// plumb console: the terminal becomes the console of a running VM.
#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "base/unix_socket.h"
#include "cli/commands.h"
#include "cli/runtime_folder.h"
#include "cli/terminal.h"
#include "cli/vm_client.h"
#include "vmm/char_hub.h"

namespace plumb {
namespace {

bool write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t done = ::write(fd, data.data(), data.size());
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    data.remove_prefix(static_cast<size_t>(done));
  }
  return true;
}

// Copies between terminal and socket until the VM closes the socket or the escape is typed. The
// end of standard input ends only the sending.
void relay(int socket) {
  pollfd ends[] = {{STDIN_FILENO, POLLIN, 0}, {socket, POLLIN, 0}};
  char buffer[4096];
  while (true) {
    if (::poll(ends, 2, -1) < 0 && errno != EINTR) return;
    if (ends[1].revents != 0) {
      const ssize_t got = ::read(socket, buffer, sizeof(buffer));
      if (got <= 0) return;
      if (!write_all(STDOUT_FILENO, {buffer, static_cast<size_t>(got)})) return;
    }
    if (ends[0].revents != 0) {
      const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (got <= 0) {
        ends[0].fd = -1;
        continue;
      }
      const std::string_view typed(buffer, static_cast<size_t>(got));
      const size_t escape = typed.find(CharHub::kEscape);
      if (!write_all(socket, typed.substr(0, escape))) return;
      if (escape != std::string_view::npos) return;
    }
  }
}

}  // namespace

Result<ExitCode> attach_console(const std::string& name) {
  TRY(VmClient::find(name));
  const UniqueFd socket = TRY(connect_unix(RuntimePaths(name).console));
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print(stderr, "Connected to VM '{}'; Ctrl-] leaves.\n", name);
  {
    const RawTerminal raw(STDIN_FILENO);
    relay(socket.get());
  }
  if (terminal) fmt::print(stderr, "\nDisconnected from VM '{}'.\n", name);
  return kExitOk;
}

}  // namespace plumb
