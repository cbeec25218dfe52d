#include "rdm/lun_health.h"

#include <fcntl.h>

#include <algorithm>

#include "base/file.h"
#include "rdm/lun_designators.h"
#include "rdm/scsi_transport.h"

namespace plumb {
namespace {

constexpr unsigned kTimeoutMs = 5000;
constexpr size_t kPageBytes = 1024;
constexpr uint8_t kInquiry = 0x12;
constexpr uint8_t kNamesPage = 0x83;
constexpr uint8_t kSerialPage = 0x80;

// Of a LUN's names, the one an administrator knows it by.
std::string best_of(const std::vector<LunId>& names) {
  if (names.empty()) return "without an identity";
  const auto strong = std::ranges::find_if(names, [](const LunId& id) { return !id.weak(); });
  return (strong == names.end() ? names.front() : *strong).text();
}

// Known by vendor, model and serial number only; the first two are the kernel's record.
bool is_by_serial(const LunId& id) { return id.text().starts_with("serial."); }

bool has_serial(const LunId& id, const std::string& serial) {
  return !serial.empty() && id.text().ends_with("_" + serial);
}

bool runs(const LunPath& path) { return path.state == "running" || path.state == "live"; }

}  // namespace

Result<std::vector<std::byte>> inquire_page(const std::string& device, uint8_t code) {
  SgTransport lun(TRY(open_file("LUN", device, O_RDONLY | O_NONBLOCK)));
  std::vector<std::byte> page(kPageBytes);
  const uint8_t cdb[6] = {kInquiry, 1, code, kPageBytes >> 8U, kPageBytes & 0xffU, 0};
  LunCommand command{.cdb = cdb, .direction = CdbData::kIn, .data = page, .timeout_ms = kTimeoutMs};
  if (const int error = lun.send(command); error != 0) {
    return os_error(error, "{} does not tell its identity", device);
  }
  if (command.status != ScsiStatus::kGood) {
    return failed("{} does not tell its identity: SCSI status {:#x}", device,
                  static_cast<unsigned>(command.status));
  }
  page.resize(command.moved_bytes);
  return page;
}

LunHealth examine_lun(const LunResolver& resolver, const Lun& lun, const InquirePage& inquire) {
  size_t running = 0;
  size_t answering = 0;
  std::string silence;
  for (const LunPath& path : lun.paths) {
    if (!runs(path)) continue;
    ++running;
    if (lun.transport == Lun::Transport::kNvme || lun.transport == Lun::Transport::kVolume) {
      ++answering;
      continue;
    }
    const std::string device = resolver.roots().dev + "/" + path.name;
    const bool by_serial = is_by_serial(lun.id);
    Result<std::vector<std::byte>> page = inquire(device, by_serial ? kSerialPage : kNamesPage);
    if (!page) {
      silence = page.error().message;
      continue;
    }
    const std::vector<LunId> names = lun_names(*page);
    const std::string serial = unit_serial(*page);
    const bool same = by_serial ? has_serial(lun.id, serial) : names_lun(names, lun.id);
    if (!same) {
      return {LunState::kOther, fmt::format("what answers at {} is {}", device,
                                            by_serial ? "number " + serial : best_of(names))};
    }
    ++answering;
  }
  if (running == 0) {
    return {LunState::kLost, fmt::format("none of its {} paths is up", lun.paths.size())};
  }
  if (answering == 0) return {LunState::kSilent, silence};
  return {};
}

}  // namespace plumb
