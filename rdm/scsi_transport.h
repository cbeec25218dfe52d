// ScsiTransport: the way of one SCSI command to a LUN, blocking: SG_IO (scsi/sg.h), or a fake.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/unique_fd.h"
#include "rdm/cdb_policy.h"

struct sg_io_hdr;

namespace plumb {

struct LunCommand {
  std::span<const uint8_t> cdb;
  CdbData direction = CdbData::kNone;
  std::span<std::byte> data;  // sent or filled; empty for kNone
  unsigned timeout_ms = 0;

  // The LUN's answer.
  ScsiStatus status = ScsiStatus::kGood;
  size_t moved_bytes = 0;
  std::array<uint8_t, kScsiSenseBytes> sense{};
  size_t sense_bytes = 0;
};

// What sense data says, in either format (SPC-4 4.5.2, 4.5.3); zeros when it says nothing.
ScsiSense code_of(std::span<const uint8_t> sense);

// SG_IO, sent by `control`, which returns 0 or a negative errno. Returns 0 when the LUN has
// answered, whatever it said; else the errno of the kernel that refuses, or of the way to the LUN:
// ENODEV, ETIMEDOUT, EIO.
int send_by_sg_io(LunCommand& command, const std::function<int(sg_io_hdr&)>& control);

class ScsiTransport {
 public:
  virtual ~ScsiTransport() = default;
  // Sends the command and blocks for the answer; 0, or an errno as send_by_sg_io(). Several threads
  // at once.
  virtual int send(LunCommand& command) = 0;
};

class SgTransport final : public ScsiTransport {
 public:
  explicit SgTransport(UniqueFd lun) : lun_(std::move(lun)) {}
  int send(LunCommand& command) override;

 private:
  const UniqueFd lun_;
};

}  // namespace plumb
