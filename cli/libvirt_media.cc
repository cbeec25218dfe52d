#include "cli/libvirt_media.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/process.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

bool is_same(const struct stat& one, const struct stat& other) {
  if (S_ISBLK(one.st_mode) && S_ISBLK(other.st_mode)) return one.st_rdev == other.st_rdev;
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// That the path names what the running guest uses, and not what has taken its place since. Only
// root may look.
Result<> check_open(const DomainDisk& disk, const struct stat& wanted) {
  if (::geteuid() != 0) return {};
  const auto holder = find_process([&](const ProcessFd& open) {
    struct stat status {};
    return ::stat(open.path.c_str(), &status) == 0 && is_same(status, wanted);
  });
  if (holder) return {};
  return failed(
      "disk {}: no process has {} open, so it is not what the running guest uses; put that back "
      "there",
      disk.id, disk.path);
}

Result<Json> image_medium(const DomainDisk& disk, const struct stat& status) {
  if (!S_ISREG(status.st_mode)) return failed("disk {}: {} is no file", disk.id, disk.path);
  std::error_code error;
  const std::string path = std::filesystem::canonical(disk.path, error).string();
  if (error) return failed("disk {}: {}: {}", disk.id, disk.path, error.message());
  return Json{{"id", disk.id},
              {"device", path},
              {"wwn", ""},
              {"size_bytes", status.st_size},
              {"st_dev", status.st_dev},
              {"st_ino", status.st_ino}};
}

Result<Json> lun_medium(const DomainDisk& disk, const struct stat& status,
                        const LunResolver& resolver) {
  const std::vector<Lun> luns = resolver.list();
  const auto lun = std::ranges::find(luns, status.st_rdev, &Lun::number);
  if (!S_ISBLK(status.st_mode) || lun == luns.end()) {
    return failed(
        "disk {}: {} is no LUN with an identity (WWN), and only LUNs and image files can be copied "
        "here; see `plumb lun list`",
        disk.id, disk.path);
  }
  return Json{{"id", disk.id},
              {"device", resolver.device_path(*lun)},
              {"wwn", lun->id.text()},
              {"size_bytes", lun->size_bytes}};
}

}  // namespace

Result<Json> media_of(const std::vector<DomainDisk>& disks, const LunResolver& resolver) {
  Json media = Json::array();
  for (const DomainDisk& disk : disks) {
    struct stat status {};
    if (::stat(disk.path.c_str(), &status) != 0) {
      return os_error(errno, "disk {}: {} is not there", disk.id, disk.path);
    }
    Json medium =
        disk.block ? TRY(lun_medium(disk, status, resolver)) : TRY(image_medium(disk, status));
    medium["not_kept"] = "libvirt runs it";
    media.push_back(std::move(medium));
    TRY(check_open(disk, status));
  }
  return media;
}

}  // namespace plumb
