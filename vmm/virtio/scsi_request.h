// Requests of virtio-scsi, parsed from the buffers of a chain. Source: virtio 1.2, section 5.6.6.
//
// Pure: headers are copied once, wherever the driver cut them, and nothing is changed but the
// iovecs, which are moved on to the data.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "blockdev/scsi_lun.h"

namespace plumb {

// Response codes, 5.6.6.1.2 and 5.6.6.2.
inline constexpr uint8_t kScsiOk = 0;
inline constexpr uint8_t kScsiOverrun = 1;
inline constexpr uint8_t kScsiAborted = 2;
inline constexpr uint8_t kScsiBadTarget = 3;
inline constexpr uint8_t kScsiReset = 4;
inline constexpr uint8_t kScsiFailure = 9;
inline constexpr uint8_t kScsiFunctionComplete = 0;
inline constexpr uint8_t kScsiFunctionSucceeded = 10;
inline constexpr uint8_t kScsiFunctionRejected = 11;
inline constexpr uint8_t kScsiIncorrectLun = 12;

inline constexpr size_t kScsiCommandHeaderBytes = 19;  // before the CDB
inline constexpr size_t kScsiResponseBytes = 12;       // before the sense data

using ScsiLunAddress = std::array<uint8_t, 8>;

// The target that an address names, whose only logical unit is 0; nothing for any other.
std::optional<uint8_t> target_of(const ScsiLunAddress& address);
ScsiLunAddress address_of(uint8_t target);

// Where the device answers: the first bytes that it may write.
struct ScsiResponsePlace {
  std::span<const iovec> whole;
  iovec last{};  // after them, the part of a buffer; without length: none
  // Copies as much as fits.
  void put(std::span<const std::byte> bytes) const;
};

struct ScsiRequest {
  ScsiLunAddress lun{};
  uint64_t id = 0;
  std::array<uint8_t, kScsiCdbBytes> cdb{};
  std::span<iovec> data_out;
  std::span<iovec> data_in;
  ScsiResponsePlace response;
};
// `cdb_size` and `sense_size` are the configuration's. Nothing when there is no room for a
// response, or no whole header.
std::optional<ScsiRequest> parse_scsi_request(std::span<iovec> readable, std::span<iovec> writable,
                                              uint32_t cdb_size, uint32_t sense_size);

enum class ScsiTask : uint32_t {
  kAbortTask = 0,
  kAbortTaskSet = 1,
  kClearAca = 2,
  kClearTaskSet = 3,
  kNexusReset = 4,
  kLunReset = 5,
  kQueryTask = 6,
  kQueryTaskSet = 7,
};

struct ScsiControl {
  bool manages_tasks = false;  // else it asks for, or about, asynchronous events
  uint32_t task = 0;           // ScsiTask, or something unknown
  ScsiLunAddress lun{};
  uint64_t id = 0;
  ScsiResponsePlace response;
};
// Nothing for what is no request of the control queue, or has no room for its response.
std::optional<ScsiControl> parse_scsi_control(std::span<iovec> readable, std::span<iovec> writable);

}  // namespace plumb
