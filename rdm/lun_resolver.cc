#include "rdm/lun_resolver.h"

#include <fmt/ranges.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <span>

#include "base/file.h"
#include "rdm/lun_designators.h"

namespace plumb {
namespace {

std::vector<std::string> entries(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<dev_t> device_number(const std::string& block) {
  const std::string text = read_attribute(block + "/dev");
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return std::nullopt;
  unsigned major_part = 0;
  unsigned minor_part = 0;
  std::from_chars(text.data(), text.data() + colon, major_part);
  std::from_chars(text.data() + colon + 1, text.data() + text.size(), minor_part);
  return makedev(major_part, minor_part);
}

// "" for what is no SCSI device, or has none.
std::string scsi_serial(const std::string& block) {
  const Result<std::string> page = read_file(block + "/device/vpd_pg80", 4096);
  return page.ok() ? unit_serial(std::as_bytes(std::span(page.value()))) : "";
}

std::string serial_of(const std::string& block) {
  const std::string serial = scsi_serial(block);
  return serial.empty() ? read_attribute(block + "/device/serial") : serial;  // NVMe has that
}

// Of a SCSI device that reports no designator.
Result<LunId> identity_by_serial(const std::string& block) {
  const std::string device = block + "/device/";
  return LunId::from_serial(read_attribute(device + "vendor"), read_attribute(device + "model"),
                            scsi_serial(block));
}

// The identity of the block device whose sysfs folder is `block`, if it is a LUN.
std::optional<std::pair<LunId, Lun::Transport>> identity(const std::string& block) {
  if (const std::string uuid = read_attribute(block + "/dm/uuid"); !uuid.empty()) {
    if (Result<LunId> id = LunId::from_multipath_uuid(uuid)) {
      return std::pair(std::move(id).value(), Lun::Transport::kMultipath);
    }
    Result<LunId> id = LunId::from_volume_uuid(uuid);
    if (!id) return std::nullopt;
    return std::pair(std::move(id).value(), Lun::Transport::kVolume);
  }
  // A kernel that found no usable identifier of an NVMe namespace makes up an nvme.… name, which
  // LunId takes as weak; SCSI devices without one have no wwid, but perhaps a serial number.
  const std::string scsi = read_attribute(block + "/device/wwid");
  const std::string nvme = read_attribute(block + "/wwid");
  Result<LunId> id = LunId::parse(nvme.empty() ? scsi : nvme);
  if (scsi.empty() && nvme.empty()) id = identity_by_serial(block);
  if (!id) return std::nullopt;
  return std::pair(std::move(id).value(),
                   nvme.empty() ? Lun::Transport::kScsi : Lun::Transport::kNvme);
}

// Native NVMe multipath hides the paths of nvme0n1, which are nvme0c0n1, nvme0c1n1, ….
bool is_path_of(const std::string& path, const std::string& head) {
  const size_t controller = path.find('c');
  if (controller == std::string::npos) return false;
  const size_t number = path.find('n', controller);
  return number != std::string::npos && path.substr(0, controller) + path.substr(number) == head;
}

// Of a path that the array allows: its controller's state. Otherwise the array's word for it.
std::string nvme_path_state(const std::string& block) {
  const std::string access = read_attribute(block + "/ana_state");
  const bool allowed = access.empty() || access == "optimized" || access == "non-optimized";
  return allowed ? read_attribute(block + "/device/state") : access;
}

// Of a LUN that is no multipath map; `devices` are all block devices.
std::vector<LunPath> paths_of(const std::string& blocks, const std::string& name,
                              const std::vector<std::string>& devices) {
  std::vector<LunPath> paths;
  if (const std::string suspended = read_attribute(blocks + name + "/dm/suspended");
      !suspended.empty()) {
    return {{name, suspended == "0" ? "running" : "suspended"}};
  }
  for (const std::string& device : devices) {
    if (is_path_of(device, name)) paths.push_back({device, nvme_path_state(blocks + device)});
  }
  if (paths.empty()) paths.push_back({name, read_attribute(blocks + name + "/device/state")});
  return paths;
}

Lun describe(const std::string& block, const std::string& name, LunId id,
             Lun::Transport transport) {
  Lun lun{.id = std::move(id), .transport = transport, .name = name};
  lun.number = device_number(block).value_or(0);
  lun.size_bytes = read_number_attribute(block + "/size") * 512;
  lun.logical_block_size =
      static_cast<uint32_t>(read_number_attribute(block + "/queue/logical_block_size"));
  lun.physical_block_size =
      static_cast<uint32_t>(read_number_attribute(block + "/queue/physical_block_size"));
  lun.write_cache = read_attribute(block + "/queue/write_cache");
  lun.fua = read_number_attribute(block + "/queue/fua") != 0;
  lun.read_only = read_number_attribute(block + "/ro") != 0;
  return lun;
}

}  // namespace

const char* transport_name(Lun::Transport transport) {
  switch (transport) {
    case Lun::Transport::kScsi:
      return "scsi";
    case Lun::Transport::kNvme:
      return "nvme";
    case Lun::Transport::kMultipath:
      return "multipath";
    case Lun::Transport::kVolume:
      return "volume";
  }
  return "?";
}

std::vector<Lun> LunResolver::list() const {
  const std::string blocks = roots_.sys + "/block/";
  std::vector<Lun> luns;
  std::vector<std::string> joined;  // paths that belong to a multipath map
  const std::vector<std::string> devices = entries(blocks);
  for (const std::string& name : devices) {
    const std::string block = blocks + name;
    if (read_attribute(block + "/hidden") == "1") continue;  // a path below an NVMe head
    auto found = identity(block);
    if (!found) continue;
    Lun lun = describe(block, name, std::move(found->first), found->second);
    std::string about = block;  // where vendor and model are
    if (lun.transport == Lun::Transport::kMultipath) {
      for (const std::string& path : entries(block + "/slaves")) {
        lun.paths.push_back({path, read_attribute(blocks + path + "/device/state")});
        joined.push_back(path);
        about = blocks + path;
      }
    } else {
      lun.paths = paths_of(blocks, name, devices);
    }
    lun.vendor = read_attribute(about + "/device/vendor");
    lun.model = read_attribute(about + "/device/model");
    lun.serial = serial_of(about);
    luns.push_back(std::move(lun));
  }
  std::erase_if(luns, [&joined](const Lun& lun) {
    return std::find(joined.begin(), joined.end(), lun.name) != joined.end();
  });
  return luns;
}

Result<Lun> LunResolver::resolve(const LunId& id) const {
  std::vector<Lun> found = list();
  const size_t seen = found.size();
  std::erase_if(found, [&id](const Lun& lun) { return lun.id != id; });
  if (found.empty()) {
    return failed(
        "LUN {} is not on this host, where {} other LUNs are visible; check the array's mapping, "
        "rescan, and see `plumb lun list`",
        id.text(), seen);
  }
  if (found.size() > 1) {
    std::vector<std::string> names;
    names.reserve(found.size());
    for (const Lun& lun : found) names.push_back(device_path(lun));
    return failed(
        "LUN {} is ambiguous: {} all have this identity and no multipath map joins them; start "
        "multipathd if they are paths, or unmap the copy",
        id.text(), fmt::join(names, ", "));
  }
  return std::move(found.front());
}

std::string LunResolver::folder_of(dev_t number) const {
  return fmt::format("{}/dev/block/{}:{}", roots_.sys, major(number), minor(number));
}

Result<LunId> LunResolver::identity_of(dev_t number) const {
  auto found = identity(folder_of(number));
  if (!found) return failed("block device {}:{} has no LUN identity", major(number), minor(number));
  return std::move(found->first);
}

}  // namespace plumb
