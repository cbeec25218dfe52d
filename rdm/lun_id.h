// LunId: the identity of a LUN, as the array or drive reports it (SPC-4 7.8.6, designators of VPD
// page 0x83; NVMe base 2.0, namespace identifiers). Never a device name, LUN number or path.
#pragma once

#include <compare>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb {

class LunId {
 public:
  // Reads an identity in any of the forms in use and brings it to one canonical text, that of the
  // kernel's `wwid` attribute:
  //   naa.HEX (16 or 32 digits), eui.HEX (16, 24 or 32), uuid.UUID, t10.TEXT, nvme.TEXT
  //   serial.VENDOR_MODEL_SERIAL, which is from_serial()'s, for a SCSI device that reports none
  //   dm.UUID, which is from_volume_uuid()'s
  //   also wwn-0xHEX, nvme-eui.HEX and dm-uuid-UUID (names in /dev/disk/by-id, with or without the
  //   folder), 0xHEX, and 3HEX (scsi_id, multipath)
  // Anything else is a usage error that shows the forms.
  static Result<LunId> parse(std::string_view text);

  // The identity of a multipath map from its device-mapper UUID, "mpath-36001405…"; an error when
  // it is none.
  static Result<LunId> from_multipath_uuid(std::string_view uuid);

  // The identity of a volume that this host makes, from its device-mapper UUID: of an LVM volume,
  // "LVM-" and the 64 characters of group and volume, or of the provider dm-thin, "PLUMB-…". An
  // error for other devices, and for those that LVM has inside.
  static Result<LunId> from_volume_uuid(std::string_view uuid);

  // The identity of a SCSI device without one of its own, from what INQUIRY and VPD page 0x80 tell;
  // an error without a serial number.
  static Result<LunId> from_serial(std::string_view vendor, std::string_view model,
                                   std::string_view serial);

  const std::string& text() const { return text_; }

  // A T10 vendor text, a serial number or an NVMe fallback name: made of model and serial number,
  // which nobody keeps unique. Used only where the administrator allows it.
  bool weak() const;

  auto operator<=>(const LunId&) const = default;

 private:
  explicit LunId(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

}  // namespace plumb
