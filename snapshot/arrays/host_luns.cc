#include "snapshot/arrays/host_luns.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/program.h"
#include "rdm/claim.h"

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kLookAgain = std::chrono::milliseconds(100);
constexpr auto kScanAgain = std::chrono::seconds(3);
constexpr unsigned kMultipathTimeoutMs = 30'000;

Result<> write_attribute(const std::string& path, std::string_view value) {
  const UniqueFd file = TRY(open_file("attribute", path, O_WRONLY));
  if (::write(file.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())) {
    return {};
  }
  return os_error(errno, "{} does not take '{}'", path, value);
}

// Hosts that cannot scan say so by an error, which matters to nobody if the LUN comes.
void rescan(const SystemRoots& roots) {
  std::error_code error;
  for (auto host = std::filesystem::directory_iterator(roots.sys + "/class/scsi_host", error);
       !error && host != std::filesystem::directory_iterator(); host.increment(error)) {
    static_cast<void>(write_attribute(host->path().string() + "/scan", "- - -").ok());
  }
}

Result<> check_unused(const Lun& lun, const std::string& device, const SystemRoots& roots) {
  std::string use = use_of(lun, roots).value_or("");
  if (use.empty()) {
    const UniqueFd alone(::open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    if (!alone && errno == EBUSY) use = "opened by somebody, such as a VM";
  }
  if (use.empty()) return {};
  return make_error(ErrorKind::kLocked, "LUN {} ({}) is in use: {}", lun.id.text(), device, use);
}

}  // namespace

HostLuns::HostLuns(HostLunsConfig config) : config_(std::move(config)), resolver_(config_.roots) {}

Result<std::string> HostLuns::appear(const LunId& id) const {
  if (Result<Lun> there = resolver_.resolve(id)) return resolver_.device_path(*there);
  const Clock::time_point limit =
      Clock::now() + std::chrono::milliseconds(config_.appear_timeout_ms);
  Clock::time_point next_scan = Clock::now();
  std::string seen;  // since when, in a row
  Clock::time_point since;
  while (true) {
    if (Clock::now() >= next_scan) {
      rescan(config_.roots);
      next_scan = Clock::now() + kScanAgain;
    }
    Result<Lun> found = resolver_.resolve(id);
    const std::string now = found ? resolver_.device_path(*found) : "";
    if (now != seen) {
      seen = now;
      since = Clock::now();
    }
    const bool settled = Clock::now() - since >= std::chrono::milliseconds(config_.settle_ms);
    if (!now.empty() && settled) return now;
    if (Clock::now() >= limit) {
      if (!found) return std::move(found).error();
      return now;
    }
    std::this_thread::sleep_for(kLookAgain);
  }
}

Result<> HostLuns::vanish(const LunId& id) const {
  std::vector<Lun> luns = resolver_.list();
  std::erase_if(luns, [&id](const Lun& lun) { return lun.id != id; });
  for (const Lun& lun : luns) {
    TRY(check_unused(lun, resolver_.device_path(lun), config_.roots));
  }
  const std::string blocks = config_.roots.sys + "/block/";
  for (const Lun& lun : luns) {
    if (lun.transport == Lun::Transport::kMultipath) {
      const std::string map = read_attribute(blocks + lun.name + "/dm/name");
      const ProgramAnswer flushed = TRY(run_program({.program = config_.multipath_program,
                                                     .arguments = {"-f", map},
                                                     .timeout_ms = kMultipathTimeoutMs}));
      if (flushed.exit_status != 0) {
        return failed("the multipath map {} of LUN {} does not go: {}", map, id.text(),
                      last_words(flushed.errors));
      }
    }
    for (const LunPath& path : lun.paths) {
      TRY(write_attribute(blocks + path.name + "/device/delete", "1"));
    }
  }
  return {};
}

void HostLuns::forget_content(const LunId& id) const {
  Result<Lun> lun = resolver_.resolve(id);
  if (!lun) return;
  const UniqueFd device(::open(resolver_.device_path(*lun).c_str(), O_RDONLY | O_CLOEXEC));
  if (device) static_cast<void>(::ioctl(device.get(), BLKFLSBUF, 0));
}

}  // namespace plumb
