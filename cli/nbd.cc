// plumb nbd serve: a snapshot's disk for programs that speak NBD, read-only, until a signal ends
// it.
#include <fmt/core.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "base/text.h"
#include "base/unix_socket.h"
#include "blockdev/cow_snapshot_device.h"
#include "blockdev/file_device.h"
#include "blockdev/io_thread.h"
#include "blockdev/nbd/server.h"
#include "cli/disk_source.h"
#include "cli/host_config.h"
#include "cli/runtime_folder.h"
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

// What is served: where an array shows the snapshot, or what the disk's VM has kept.
struct Source {
  std::vector<DiskSource> mapped;  // one
  std::unique_ptr<CowReader> reader;
};

Result<Source> open_source(const SnapshotDisk& snapshot) {
  ArraySet arrays = TRY(configured_array_set());
  if (snapshot.array == kOverlayArrayName) {
    Result<std::unique_ptr<CowReader>> reader = arrays.overlays()->read(snapshot.snapshot_id);
    if (!reader) return array_error(std::move(reader).error());
    return Source{{}, std::move(*reader)};
  }
  Result<MappedVolume> mapped = TRY(arrays.get(snapshot.array))->map(snapshot.snapshot_id);
  if (!mapped) return array_error(std::move(mapped).error());
  DiskDefinition disk;
  disk.id = "snapshot";
  disk.lun = mapped->wwn;
  if (disk.lun.empty()) disk.image = mapped->device;
  disk.read_only = true;
  return Source{TRY(open_sources({disk})), nullptr};
}

// What open_sources() has examined is not looked at again.
Result<std::unique_ptr<BlockDevice>> device_of(Source source, IoThread& thread) {
  constexpr uint32_t kBlockBytes = 512;
  if (source.reader) {
    return TRY(CowSnapshotDevice::open(std::move(source.reader), kBlockBytes, thread));
  }
  DiskSource& disk = source.mapped.front();
  return std::make_unique<FileDevice>(
      FileDevice::Config{.fd = std::move(disk.fd), .label = disk.label, .read_only = true},
      disk.facts, thread);
}

}  // namespace

Result<ExitCode> serve_nbd(const std::string& disk_name, const std::string& socket) {
  Source source = TRY(open_source(TRY(find_snapshot_disk(disk_name))));
  const std::filesystem::path path = std::filesystem::absolute(socket);
  const UniqueFd signals = TRY(end_signals());
  constexpr int kBacklog = 16;
  UniqueFd listener = TRY(listen_unix(path, kBacklog));
  TRY(give_up_server_privileges(path.parent_path(), source.reader ? overlay_folder() : ""));
  const std::unique_ptr<IoThread> thread = TRY(IoThread::start({.name = "io-nbd"}));
  const std::unique_ptr<BlockDevice> device = TRY(device_of(std::move(source), *thread));
  {
    const nbd::Server server(
        {.listener = std::move(listener), .name = disk_name, .device = *device, .thread = *thread});
    TRY(restrict_server_system_calls());
    fmt::print("{0} is served at nbd+unix:///{0}?socket={1}\n", disk_name,
               printable(path.string()));
    std::fflush(stdout);
    wait_for(signals);
  }
  ::unlink(path.c_str());
  return kExitOk;
}

}  // namespace plumb
