#include "rdm/scsi_transport.h"

#include <scsi/sg.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace plumb {
namespace {

// scsi/scsi_status.h of the kernel.
constexpr int kHostNoConnect = 1;
constexpr int kHostTimedOut = 3;

int direction_of(CdbData data) {
  switch (data) {
    case CdbData::kIn:
      return SG_DXFER_FROM_DEV;
    case CdbData::kOut:
      return SG_DXFER_TO_DEV;
    case CdbData::kNone:
      break;
  }
  return SG_DXFER_NONE;
}

int error_of_host(int host_status) {
  switch (host_status) {
    case kHostNoConnect:
      return ENODEV;
    case kHostTimedOut:
      return ETIMEDOUT;
    default:
      return EIO;
  }
}

}  // namespace

ScsiSense code_of(std::span<const uint8_t> sense) {
  const auto at = [sense](size_t index) {
    return index < sense.size() ? sense[index] : uint8_t{0};
  };
  const auto key = [](uint8_t byte) { return static_cast<uint8_t>(byte & 0x0fU); };
  if ((at(0) & 0x7fU) >= 0x72) return {key(at(1)), at(2), at(3)};
  return {key(at(2)), at(12), at(13)};
}

int send_by_sg_io(LunCommand& command, const std::function<int(sg_io_hdr&)>& control) {
  sg_io_hdr header{};
  header.interface_id = 'S';
  header.dxfer_direction = command.data.empty() ? SG_DXFER_NONE : direction_of(command.direction);
  header.cmd_len = static_cast<unsigned char>(command.cdb.size());
  header.mx_sb_len = static_cast<unsigned char>(command.sense.size());
  header.dxfer_len = static_cast<unsigned>(command.data.size());
  header.dxferp = command.data.data();
  header.cmdp = const_cast<unsigned char*>(command.cdb.data());  // only read
  header.sbp = command.sense.data();
  header.timeout = command.timeout_ms;
  const int result = control(header);
  if (result < 0) return -result;
  // The kernel may set a host byte beside a status; the status is what the LUN said.
  if (header.status == 0 && header.host_status != 0) return error_of_host(header.host_status);
  command.status = static_cast<ScsiStatus>(header.status);
  command.sense_bytes = std::min<size_t>(header.sb_len_wr, command.sense.size());
  const long size = static_cast<long>(command.data.size());
  command.moved_bytes = static_cast<size_t>(size - std::clamp<long>(header.resid, 0, size));
  return 0;
}

int SgTransport::send(LunCommand& command) {
  return send_by_sg_io(command, [this](sg_io_hdr& header) {
    return ::ioctl(lun_.get(), SG_IO, &header) < 0 ? -errno : 0;
  });
}

}  // namespace plumb
