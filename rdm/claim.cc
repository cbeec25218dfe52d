#include "rdm/claim.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/process.h"
#include "blockdev/file_lock.h"

namespace plumb {
namespace {

constexpr int kClaimPatienceMs = 2000;
constexpr int kClaimStepMs = 20;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    if (end != 0) parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return parts;
}

// "/dev/mapper/x" and "/dev/sdb1" name devices; `name` is the kernel's name.
bool names_device(std::string_view path, std::string_view name) {
  return path.starts_with("/dev/") && path.substr(5) == name;
}

// What holds a block device, from its holders folder: "dm-3 (LVM-…)", "md0".
std::optional<std::string> holder_of(const std::string& block) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(block + "/holders", error)) {
    const std::string name = entry.path().filename().string();
    const std::string uuid = read_attribute(entry.path().string() + "/dm/uuid");
    return uuid.empty() ? name : fmt::format("{} ({})", name, uuid);
  }
  return std::nullopt;
}

struct BlockName {
  std::string name;    // "sdb1"
  std::string folder;  // in sysfs
  bool whole = true;
};

// The LUN and its partitions.
std::vector<BlockName> parts_of(const Lun& lun, const SystemRoots& roots) {
  const std::string folder = roots.sys + "/block/" + lun.name;
  std::vector<BlockName> parts{{lun.name, folder, true}};
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string path = entry.path().string();
    if (read_attribute(path + "/partition").empty()) continue;
    parts.push_back({entry.path().filename().string(), path, false});
  }
  return parts;
}

Error busy(const Lun& lun, const std::string& device, const std::string& reason) {
  return make_error(ErrorKind::kLocked,
                    "LUN {} ({}) is in use on this host: {}; it is not touched until that ends",
                    lun.id.text(), device, reason);
}

// The descriptor must be of the device looked up, with the identity, size and blocks it had.
Result<> verify(const LunResolver& resolver, const Lun& lun, int fd) {
  struct stat status {};
  uint64_t size_bytes = 0;
  int block_size = 0;
  if (::fstat(fd, &status) != 0 || ::ioctl(fd, BLKGETSIZE64, &size_bytes) != 0 ||
      ::ioctl(fd, BLKSSZGET, &block_size) != 0) {
    return os_error(errno, "LUN {} cannot be examined", lun.id.text());
  }
  const LunId now = TRY(resolver.identity_of(status.st_rdev));
  if (!S_ISBLK(status.st_mode) || status.st_rdev != lun.number || now != lun.id) {
    return failed(
        "the device at {} changed while it was opened: it is {} and LUN {} was asked for; "
        "nothing was written, try again",
        resolver.device_path(lun), now.text(), lun.id.text());
  }
  if (size_bytes != lun.size_bytes) {
    return failed("LUN {} changed its size from {} to {} bytes while it was opened; try again",
                  lun.id.text(), lun.size_bytes, size_bytes);
  }
  if (block_size != static_cast<int>(lun.logical_block_size)) {
    return failed("LUN {} changed its blocks from {} to {} bytes while it was opened; try again",
                  lun.id.text(), lun.logical_block_size, block_size);
  }
  return {};
}

Result<> check_usable(const Lun& lun, const std::string& device, const ClaimOptions& options) {
  if (lun.id.weak() && !options.allow_weak_identity) {
    return failed(
        "LUN {} ({}) has an identity made of its model and serial number, which may not be "
        "unique; add allow-weak-identity to the disk if it is the right one",
        lun.id.text(), device);
  }
  if (lun.size_bytes == 0) return failed("LUN {} ({}) has no medium", lun.id.text(), device);
  if (lun.read_only && !options.read_only) {
    return failed(
        "LUN {} ({}) is read-only; attach it with read-only, or make it writable in the "
        "array",
        lun.id.text(), device);
  }
  return {};
}

// With `patient`, whoever is seen may be about to let go.
Result<UniqueFd> open_exclusively(const Lun& lun, const std::string& device, int access,
                                  const SystemRoots& roots, bool patient) {
  for (int waited_ms = 0;; waited_ms += kClaimStepMs) {
    UniqueFd fd(::open(device.c_str(), access | O_EXCL | O_DIRECT | O_CLOEXEC));
    if (fd) return fd;
    if (errno != EBUSY) {
      return os_error(errno, "LUN {} ({}) cannot be opened", lun.id.text(), device);
    }
    const bool last = waited_ms >= kClaimPatienceMs;
    const auto holder = process_with_device_open(lun.number, roots.proc);
    if (holder && (last || !patient)) return busy(lun, device, "it is open in " + *holder);
    // Nobody to be seen: the kernel itself, or a VM killed a moment ago, whose ring the kernel is
    // taking down; that ends by itself.
    if (last) return busy(lun, device, "it is held by the kernel");
    std::this_thread::sleep_for(std::chrono::milliseconds(kClaimStepMs));
  }
}

Result<UniqueFd> open_alone(const Lun& lun, const std::string& device, int access,
                            const SystemRoots& roots) {
  UniqueFd fd = TRY(open_exclusively(lun, device, access, roots, false));
  TRY(check_unlocked(fd.get(), fmt::format("LUN {} ({})", lun.id.text(), device)));
  return fd;
}

Result<UniqueFd> open_shared(const Lun& lun, const std::string& device, int access,
                             const SystemRoots& roots) {
  // For reading: udev examines a device anew when a descriptor for writing is closed. Another
  // shared claim may have it for this moment too, beside VMs that are seen and do not matter.
  const UniqueFd alone = TRY(open_exclusively(lun, device, O_RDONLY, roots, true));
  UniqueFd fd(::open(device.c_str(), access | O_DIRECT | O_CLOEXEC));
  if (!fd) return os_error(errno, "LUN {} ({}) cannot be opened", lun.id.text(), device);
  TRY(lock_file(fd.get(), fmt::format("LUN {} ({})", lun.id.text(), device), false));
  return fd;
}

}  // namespace

std::optional<std::string> mount_point_in(std::string_view mountinfo, std::string_view name,
                                          std::string_view number) {
  // proc(5): ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS…] - TYPE SOURCE OPTIONS
  for (const std::string_view line : split(mountinfo, '\n')) {
    const std::vector<std::string_view> words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6) continue;
    const bool by_source = words.end() - dash > 2 && names_device(dash[2], name);
    if (words[2] == number || by_source) return std::string(words[4]);
  }
  return std::nullopt;
}

bool is_swap_in(std::string_view swaps, std::string_view name) {
  for (const std::string_view line : split(swaps, '\n')) {
    if (names_device(line.substr(0, line.find_first_of(" \t")), name)) return true;
  }
  return false;
}

std::optional<std::string> use_of(const Lun& lun, const SystemRoots& roots) {
  const std::string mountinfo = read_attribute(roots.proc + "/self/mountinfo");
  const std::string swaps = read_attribute(roots.proc + "/swaps");
  for (const BlockName& part : parts_of(lun, roots)) {
    const std::string what = part.whole ? "it is" : fmt::format("its partition {} is", part.name);
    if (const auto point =
            mount_point_in(mountinfo, part.name, read_attribute(part.folder + "/dev"))) {
      return fmt::format("{} mounted on {}", what, *point);
    }
    if (is_swap_in(swaps, part.name)) return fmt::format("{} swap space", what);
    if (const auto holder = holder_of(part.folder)) {
      return fmt::format("{} held by {}", what, *holder);
    }
  }
  return std::nullopt;
}

Result<ClaimedLun> claim_lun(const LunResolver& resolver, const LunId& id,
                             const ClaimOptions& options) {
  Lun lun = TRY(resolver.resolve(id));
  const std::string device = resolver.device_path(lun);
  TRY(check_usable(lun, device, options));
  if (const auto use = use_of(lun, resolver.roots())) return busy(lun, device, *use);

  const int access = options.read_only ? O_RDONLY : O_RDWR;
  const auto open = options.shared ? open_shared : open_alone;
  UniqueFd fd = TRY(open(lun, device, access, resolver.roots()));
  TRY(verify(resolver, lun, fd.get()));
  return ClaimedLun{std::move(fd), std::move(lun)};
}

}  // namespace plumb
