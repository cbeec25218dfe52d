#include "blockdev/scsi_pages.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/endian.h"

namespace plumb {
namespace {

constexpr uint8_t kPageSupported = 0x00;
constexpr uint8_t kPageSerial = 0x80;
constexpr uint8_t kPageIdentification = 0x83;
constexpr uint8_t kPageBlockLimits = 0xb0;
constexpr uint8_t kPageCharacteristics = 0xb1;
constexpr uint8_t kPageProvisioning = 0xb2;

constexpr uint8_t kModeErrorRecovery = 0x01;
constexpr uint8_t kModeCaching = 0x08;
constexpr uint8_t kModeControl = 0x0a;
constexpr uint8_t kModeExceptions = 0x1c;
constexpr uint8_t kModeAllPages = 0x3f;
constexpr uint8_t kAllSubpages = 0xff;

// Left-aligned, padded with spaces.
void put_text(std::vector<uint8_t>& to, size_t at, size_t length, const std::string& text) {
  std::fill_n(to.begin() + static_cast<ptrdiff_t>(at), length, uint8_t{' '});
  std::copy_n(text.begin(), std::min(length, text.size()), to.begin() + static_cast<ptrdiff_t>(at));
}

// NAA 3h, locally assigned: 60 bits of the serial (FNV-1a).
std::vector<uint8_t> local_name(const std::string& serial) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : serial) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3U;
  std::vector<uint8_t> name(8);
  store_be(name.data(), (hash & ~(0xfULL << 60U)) | (0x3ULL << 60U));
  return name;
}

void add_designator(std::vector<uint8_t>& page, uint8_t code_set, uint8_t type,
                    std::span<const uint8_t> bytes) {
  page.insert(page.end(), {code_set, type, 0, static_cast<uint8_t>(bytes.size())});
  page.insert(page.end(), bytes.begin(), bytes.end());
}

std::vector<uint8_t> identification(const ScsiIdentity& identity) {
  std::vector<uint8_t> page(4);
  const std::vector<uint8_t> name =
      identity.naa.empty() ? local_name(identity.serial) : identity.naa;
  add_designator(page, 0x01, 0x03, name);
  // T10 vendor identification: vendor, product, serial.
  std::vector<uint8_t> text(24);
  put_text(text, 0, 8, identity.vendor);
  put_text(text, 8, 16, identity.product);
  text.insert(text.end(), identity.serial.begin(), identity.serial.end());
  text.resize(std::min<size_t>(text.size(), 64));
  add_designator(page, 0x02, 0x01, text);
  return page;
}

std::vector<uint8_t> block_limits(const ScsiDiskFacts& facts) {
  const ScsiGeometry& geometry = facts.geometry;
  std::vector<uint8_t> page(64);
  page[4] = 0x01;  // WSNZ: WRITE SAME of no blocks is refused
  page[5] = kScsiMaxCompareBlocks;
  store_be(&page[6], static_cast<uint16_t>(facts.physical_block_size / geometry.block_size));
  store_be(&page[8], geometry.max_transfer_blocks);
  store_be(&page[12], facts.optimal_io_size / geometry.block_size);
  if (geometry.unmaps) {
    store_be(&page[20], facts.max_unmap_blocks);
    store_be(&page[24], kScsiMaxUnmapExtents);
    store_be(&page[28], std::max(1U, facts.unmap_granularity / geometry.block_size));
    page[32] = 0x80;  // UGAVALID: aligned at 0
  }
  store_be(&page[36], uint64_t{geometry.max_write_same_blocks});
  return page;
}

std::vector<uint8_t> provisioning(const ScsiDiskFacts& facts) {
  std::vector<uint8_t> page(8);
  if (!facts.geometry.unmaps) return page;
  page[5] = 0x80;                                                 // LBPU
  if (facts.geometry.max_write_same_blocks > 0) page[5] |= 0x60;  // LBPWS, LBPWS10
  page[6] = 0x02;                                                 // thin
  return page;
}

std::vector<uint8_t> supported_pages() {
  return {0,
          0,
          0,
          0,
          kPageSupported,
          kPageSerial,
          kPageIdentification,
          kPageBlockLimits,
          kPageCharacteristics,
          kPageProvisioning};
}

std::vector<uint8_t> characteristics() {
  std::vector<uint8_t> page(64);
  page[5] = 0x01;  // does not rotate
  return page;
}

// One mode page; nothing when there is none of that code. `changeable`: the mask of what can be
// changed, which is nothing.
std::optional<std::vector<uint8_t>> mode_page(uint8_t code, bool changeable,
                                              const ScsiDiskFacts& facts) {
  std::vector<uint8_t> page;
  switch (code) {
    case kModeErrorRecovery:
    case kModeControl:
    case kModeExceptions:
      page.resize(12);
      break;
    case kModeCaching:
      page.resize(20);
      break;
    default:
      return std::nullopt;
  }
  page[0] = code;
  page[1] = static_cast<uint8_t>(page.size() - 2);
  if (changeable) return page;
  if (code == kModeCaching && facts.write_cache) page[2] = 0x04;  // WCE
  if (code == kModeControl) page[3] = 0x10;  // commands may be reordered without restriction
  return page;
}

constexpr uint8_t kModePages[] = {kModeErrorRecovery, kModeCaching, kModeControl, kModeExceptions};

size_t mode_header_bytes(const ScsiOperation& operation) { return operation.ten_byte_mode ? 8 : 4; }

}  // namespace

std::vector<uint8_t> standard_inquiry(const ScsiIdentity& identity) {
  std::vector<uint8_t> data(96);
  data[2] = 0x06;  // SPC-4
  data[3] = 0x02;  // the format of these data
  data[4] = static_cast<uint8_t>(data.size() - 5);
  data[7] = 0x02;  // CMDQUE
  put_text(data, 8, 8, identity.vendor);
  put_text(data, 16, 16, identity.product);
  put_text(data, 32, 4, identity.revision);
  store_be(&data[58], uint16_t{0x00a0});  // SAM-5
  store_be(&data[60], uint16_t{0x0460});  // SPC-4
  store_be(&data[62], uint16_t{0x04c0});  // SBC-3
  return data;
}

std::optional<std::vector<uint8_t>> vital_product_page(uint8_t code, const ScsiIdentity& identity,
                                                       const ScsiDiskFacts& facts) {
  std::vector<uint8_t> page;
  switch (code) {
    case kPageSupported:
      page = supported_pages();
      break;
    case kPageSerial:
      page.resize(4);
      page.insert(page.end(), identity.serial.begin(), identity.serial.end());
      break;
    case kPageIdentification:
      page = identification(identity);
      break;
    case kPageBlockLimits:
      page = block_limits(facts);
      break;
    case kPageCharacteristics:
      page = characteristics();
      break;
    case kPageProvisioning:
      page = provisioning(facts);
      break;
    default:
      return std::nullopt;
  }
  page[1] = code;
  store_be(&page[2], static_cast<uint16_t>(page.size() - 4));
  return page;
}

std::vector<uint8_t> read_capacity_10(const ScsiGeometry& geometry) {
  std::vector<uint8_t> data(8);
  store_be(&data[0], static_cast<uint32_t>(std::min<uint64_t>(geometry.blocks - 1, UINT32_MAX)));
  store_be(&data[4], geometry.block_size);
  return data;
}

std::vector<uint8_t> read_capacity_16(const ScsiDiskFacts& facts) {
  std::vector<uint8_t> data(32);
  store_be(&data[0], facts.geometry.blocks - 1);
  store_be(&data[8], facts.geometry.block_size);
  const uint32_t per_physical = facts.physical_block_size / facts.geometry.block_size;
  data[13] = static_cast<uint8_t>(std::countr_zero(std::max(per_physical, 1U)));
  if (facts.geometry.unmaps) data[14] = 0x80;  // LBPME
  return data;
}

std::vector<uint8_t> request_sense(const ScsiOperation& operation, const ScsiSense& told) {
  if (operation.descriptor_sense) return {0x72, told.key, told.asc, told.ascq, 0, 0, 0, 0};
  const auto fixed = fixed_sense(told);
  std::vector<uint8_t> answer(fixed.size());
  std::memcpy(answer.data(), fixed.data(), answer.size());
  return answer;
}

ScsiSense report_luns(const ScsiOperation& operation, std::vector<uint8_t>& answer) {
  // There are no well-known logical units.
  answer.assign(operation.reporting == 1 ? 8 : 16, 0);
  answer[3] = static_cast<uint8_t>(answer.size() - 8);
  const bool wrong = operation.reporting > 2 || operation.parameter_bytes < 16;
  return wrong ? sense::kInvalidFieldInCdb : sense::kNone;
}

ScsiSense mode_sense(const ScsiOperation& operation, const ScsiDiskFacts& facts,
                     std::vector<uint8_t>& answer) {
  if (operation.page_control == 3) return sense::kSavingNotSupported;
  const bool all = operation.page == kModeAllPages;
  if (operation.subpage != 0 && !(all && operation.subpage == kAllSubpages)) {
    return sense::kInvalidFieldInCdb;
  }
  const size_t header = mode_header_bytes(operation);
  answer.assign(header, 0);
  if (!operation.no_block_descriptor) {
    answer.resize(header + 8);
    const uint64_t blocks = std::min<uint64_t>(facts.geometry.blocks, UINT32_MAX);
    store_be(&answer[header], static_cast<uint32_t>(blocks));
    store_be(&answer[header + 4], facts.geometry.block_size);
  }
  const auto descriptor_bytes = static_cast<uint8_t>(answer.size() - header);
  bool any = false;
  for (const uint8_t code : kModePages) {
    if (!all && code != operation.page) continue;
    const auto page = mode_page(code, operation.page_control == 1, facts);
    answer.insert(answer.end(), page->begin(), page->end());
    any = true;
  }
  if (!any) return sense::kInvalidFieldInCdb;
  // WP and DPOFUA.
  const uint8_t device = (facts.geometry.read_only ? 0x80U : 0U) | 0x10U;
  if (operation.ten_byte_mode) {
    store_be(&answer[0], static_cast<uint16_t>(answer.size() - 2));
    answer[3] = device;
    answer[7] = descriptor_bytes;
  } else {
    answer[0] = static_cast<uint8_t>(answer.size() - 1);
    answer[2] = device;
    answer[3] = descriptor_bytes;
  }
  return sense::kNone;
}

ScsiSense mode_select(const ScsiOperation& operation, const ScsiDiskFacts& facts,
                      std::span<const uint8_t> parameters) {
  if (parameters.empty()) return sense::kNone;
  const size_t header = mode_header_bytes(operation);
  if (parameters.size() < header) return sense::kParameterListLength;
  const size_t descriptor_bytes =
      operation.ten_byte_mode ? load_be<uint16_t>(&parameters[6]) : parameters[3];
  if (descriptor_bytes != 0 && descriptor_bytes != 8) return sense::kInvalidParameter;
  std::span<const uint8_t> rest = parameters.subspan(header);
  if (rest.size() < descriptor_bytes) return sense::kParameterListLength;
  if (descriptor_bytes == 8) {
    const uint32_t block_size = load_be<uint32_t>(&rest[4]) & 0xffffffU;
    if (block_size != 0 && block_size != facts.geometry.block_size) return sense::kInvalidParameter;
  }
  rest = rest.subspan(descriptor_bytes);
  while (!rest.empty()) {
    std::optional<std::vector<uint8_t>> page = mode_page(rest[0] & 0x3fU, false, facts);
    if ((rest[0] & 0x40U) != 0 || !page) return sense::kInvalidParameter;
    if (rest.size() < page->size()) return sense::kParameterListLength;
    // The bit PS is reserved here.
    if ((rest[0] & 0x80U) != 0) page->front() |= 0x80U;
    if (!std::equal(page->begin(), page->end(), rest.begin())) return sense::kInvalidParameter;
    rest = rest.subspan(page->size());
  }
  return sense::kNone;
}

ScsiSense parse_unmap(std::span<const uint8_t> parameters, const ScsiDiskFacts& facts,
                      std::vector<ScsiExtent>& extents) {
  constexpr size_t kHeader = 8;
  constexpr size_t kDescriptor = 16;
  extents.clear();
  if (parameters.empty()) return sense::kNone;
  if (parameters.size() < kHeader) return sense::kParameterListLength;
  const size_t told = load_be<uint16_t>(&parameters[2]);
  const size_t here = parameters.size() - kHeader;
  if (told > here) return sense::kParameterListLength;
  const size_t count = told / kDescriptor;
  if (count > kScsiMaxUnmapExtents) return sense::kInvalidParameter;
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* at = &parameters[kHeader + i * kDescriptor];
    const ScsiExtent extent{.lba = load_be<uint64_t>(at), .blocks = load_be<uint32_t>(at + 8)};
    const uint64_t blocks = facts.geometry.blocks;
    if (extent.lba > blocks || extent.blocks > blocks - extent.lba) return sense::kLbaOutOfRange;
    sum += extent.blocks;
    if (extent.blocks > 0) extents.push_back(extent);
  }
  return sum > facts.max_unmap_blocks ? sense::kInvalidParameter : sense::kNone;
}

}  // namespace plumb
