// plumb nbd serve: disks of snapshots, and of VMs that do not run, for programs that speak NBD,
// until a signal ends it.
#include <fmt/core.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "base/log.h"
#include "blockdev/io_thread.h"
#include "blockdev/nbd/server.h"
#include "blockdev/nbd/tls_transport.h"
#include "cli/nbd_disks.h"
#include "cli/nbd_listener.h"
#include "cli/sandbox.h"
#include "cli/snapshot_commands.h"

namespace plumb {
namespace {

// The signals that end a command, held back from all threads made from here on.
Result<UniqueFd> end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!fd.valid()) return os_error(errno, "signals cannot be waited for");
  return fd;
}

void wait_for(const UniqueFd& signals) {
  signalfd_siginfo signal{};
  while (::read(signals.get(), &signal, sizeof(signal)) < 0 && errno == EINTR) {
  }
}

Result<> check(const NbdServeOptions& options) {
  if (options.socket.empty() == options.listen.empty()) {
    return usage_error("give either --socket or --listen");
  }
  // Nothing else tells users of this host apart there.
  const bool guarded = !options.listen.empty() && options.tls_psk.empty() && !options.insecure;
  if (!guarded || !options.writable) return {};
  return usage_error(
      "every user of this host could write the disks at {}; give a key with --tls-psk, or say "
      "--insecure",
      options.listen);
}

Result<std::unique_ptr<nbd::TlsAcceptor>> acceptor_of(const NbdServeOptions& options) {
  if (options.tls_psk.empty()) return std::unique_ptr<nbd::TlsAcceptor>();
  return nbd::make_psk_acceptor(TRY(nbd::read_psk_keys(options.tls_psk)));
}

Result<NbdListener> listener_of(const NbdServeOptions& options) {
  if (!options.socket.empty()) return listen_at_socket(options.socket);
  return listen_at_address(options.listen, !options.tls_psk.empty() || options.insecure);
}

// What the process may still reach: its socket's folder, and what sources go on to read.
Result<> give_up_privileges_of(const NbdListener& listener, const std::vector<NbdSource>& sources) {
  const auto reader =
      std::ranges::find_if(sources, [](const NbdSource& source) { return !source.reads.empty(); });
  const std::filesystem::path path = listener.file.path();
  return give_up_server_privileges(path.parent_path(),
                                   reader == sources.end() ? "" : reader->reads);
}

}  // namespace

Result<ExitCode> serve_nbd(const NbdServeOptions& options) {
  TRY(check(options));
  log::configure("plumb", log::Level::kWarning);
  const std::unique_ptr<nbd::TlsAcceptor> tls = TRY(acceptor_of(options));
  std::vector<NbdSource> sources = TRY(open_nbd_sources(options.targets, options.writable));
  const UniqueFd signals = TRY(end_signals());
  NbdListener listener = TRY(listener_of(options));
  TRY(give_up_privileges_of(listener, sources));
  const std::unique_ptr<IoThread> thread = TRY(IoThread::start({.name = "io-nbd"}));
  const std::unique_ptr<NbdDisks> disks = TRY(NbdDisks::start(std::move(sources), *thread));
  const std::vector<nbd::Export> exports = disks->exports();
  {
    const nbd::Server server({.listener = std::move(listener.fd),
                              .exports = exports,
                              .thread = *thread,
                              .tls = tls.get()});
    TRY(restrict_server_system_calls(options.writable));
    for (const nbd::Export& one : exports) {
      fmt::print("{} is served at {}\n", one.name, nbd_uri(listener, one.name, tls != nullptr));
    }
    std::fflush(stdout);
    wait_for(signals);
  }
  TRY(disks->end());
  return kExitOk;
}

}  // namespace plumb
