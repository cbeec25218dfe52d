// What a disk says of itself over SCSI: INQUIRY data, vital product data and mode pages. Sources:
// SPC-4 6.4, 7.5 and 7.8; SBC-3 6.4 and 6.5.
//
// Pure. Answers are whole; the caller cuts them to what was asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockdev/scsi_cdb.h"

namespace plumb {

struct ScsiIdentity {
  std::string vendor;        // at most 8 characters, ASCII
  std::string product;       // at most 16
  std::string revision;      // at most 4
  std::string serial;        // of the unit
  std::vector<uint8_t> naa;  // 8 or 16 bytes, NAA format; empty: made from the serial
};

struct ScsiDiskFacts {
  ScsiGeometry geometry;
  uint32_t physical_block_size = 0;  // bytes
  uint32_t optimal_io_size = 0;      // bytes; 0: not reported
  uint32_t max_unmap_blocks = 0;
  uint32_t unmap_granularity = 0;  // bytes
  bool write_cache = false;        // WCE: a write may be lost until a flush
};

inline constexpr uint32_t kScsiMaxUnmapExtents = 256;

std::vector<uint8_t> standard_inquiry(const ScsiIdentity& identity);
// Nothing when there is no such page.
std::optional<std::vector<uint8_t>> vital_product_page(uint8_t page, const ScsiIdentity& identity,
                                                       const ScsiDiskFacts& facts);
std::vector<uint8_t> read_capacity_10(const ScsiGeometry& geometry);
std::vector<uint8_t> read_capacity_16(const ScsiDiskFacts& facts);

// REQUEST SENSE, in the format it asks for.
std::vector<uint8_t> request_sense(const ScsiOperation& operation, const ScsiSense& told);
// REPORT LUNS of a target with one unit, LUN 0; sense::kNone or why it is refused.
ScsiSense report_luns(const ScsiOperation& operation, std::vector<uint8_t>& answer);

// sense::kNone and the answer, or why there is none.
ScsiSense mode_sense(const ScsiOperation& operation, const ScsiDiskFacts& facts,
                     std::vector<uint8_t>& answer);
// Nothing can be changed: sense::kNone when the parameters say what is so already.
ScsiSense mode_select(const ScsiOperation& operation, const ScsiDiskFacts& facts,
                      std::span<const uint8_t> parameters);

struct ScsiExtent {
  uint64_t lba = 0;
  uint32_t blocks = 0;
};
// The extents of an UNMAP parameter list (SBC-3 5.28.2) that are not empty, each checked against
// the medium; sense::kNone or why it is refused.
ScsiSense parse_unmap(std::span<const uint8_t> parameters, const ScsiDiskFacts& facts,
                      std::vector<ScsiExtent>& extents);

}  // namespace plumb
