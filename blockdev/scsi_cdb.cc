#include "blockdev/scsi_cdb.h"

#include <algorithm>
#include <array>

#include "base/endian.h"

namespace plumb {
namespace {

constexpr uint8_t kNoServiceAction = 0xff;

// One command: its codes, its action, and the bits of its CDB that it uses (SPC-4 6.35.3, CDB usage
// data). The control byte's NACA is none of them.
struct Known {
  uint8_t code;
  uint8_t service_action;  // in byte 1, bits 0 to 4
  ScsiAction action;
  bool writes;
  uint8_t length;
  std::array<uint8_t, 16> usage;
};

using enum ScsiAction;
constexpr uint8_t kNsa = kNoServiceAction;

constexpr Known kCommands[] = {
    {0x00, kNsa, kTestUnitReady, false, 6, {0x00}},
    {0x03, kNsa, kRequestSense, false, 6, {0x03, 0x01, 0, 0, 0xff}},
    {0x08, kNsa, kRead, false, 6, {0x08, 0x1f, 0xff, 0xff, 0xff}},
    {0x0a, kNsa, kWrite, true, 6, {0x0a, 0x1f, 0xff, 0xff, 0xff}},
    {0x12, kNsa, kInquiry, false, 6, {0x12, 0x01, 0xff, 0xff, 0xff}},
    {0x15, kNsa, kModeSelect, false, 6, {0x15, 0x11, 0, 0, 0xff}},
    {0x1a, kNsa, kModeSense, false, 6, {0x1a, 0x08, 0xff, 0xff, 0xff}},
    {0x1b, kNsa, kNothing, false, 6, {0x1b, 0x01, 0, 0x0f, 0xf7}},
    {0x1d, kNsa, kNothing, false, 6, {0x1d, 0x14}},
    {0x1e, kNsa, kNothing, false, 6, {0x1e, 0, 0, 0, 0x01}},
    {0x25, kNsa, kReadCapacity10, false, 10, {0x25}},
    {0x28, kNsa, kRead, false, 10, {0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x2a, kNsa, kWrite, true, 10, {0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x2e, kNsa, kWriteVerify, true, 10, {0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x2f, kNsa, kVerify, false, 10, {0x2f, 0x12, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x34, kNsa, kNothing, false, 10, {0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x35, kNsa, kSynchronize, false, 10, {0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x41, kNsa, kWriteSame, true, 10, {0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}},
    {0x42, kNsa, kUnmap, true, 10, {0x42, 0, 0, 0, 0, 0, 0x1f, 0xff, 0xff}},
    {0x55, kNsa, kModeSelect, false, 10, {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5a, kNsa, kModeSense, false, 10, {0x5a, 0x08, 0xff, 0xff, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 0x00, kReserve, false, 10, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 0x01, kReserve, false, 10, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 0x02, kReserve, false, 10, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 0x03, kReserve, false, 10, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5f, 0x00, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f, 0x01, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f, 0x02, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f, 0x03, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f, 0x04, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f, 0x05, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f, 0x06, kReserve, true, 10, {0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x88,
     kNsa,
     kRead,
     false,
     16,
     {0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x89,
     kNsa,
     kCompareAndWrite,
     true,
     16,
     {0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x1f}},
    {0x8a,
     kNsa,
     kWrite,
     true,
     16,
     {0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x8e,
     kNsa,
     kWriteVerify,
     true,
     16,
     {0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x8f,
     kNsa,
     kVerify,
     false,
     16,
     {0x8f, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x90,
     kNsa,
     kNothing,
     false,
     16,
     {0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x91,
     kNsa,
     kSynchronize,
     false,
     16,
     {0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x93,
     kNsa,
     kWriteSame,
     true,
     16,
     {0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0x9e,
     0x10,
     kReadCapacity16,
     false,
     16,
     {0x9e, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
    {0xa0, kNsa, kReportLuns, false, 12, {0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0xa3,
     0x0c,
     kReportOperations,
     false,
     12,
     {0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
    {0xa8,
     kNsa,
     kRead,
     false,
     12,
     {0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0xaa,
     kNsa,
     kWrite,
     true,
     12,
     {0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0xae,
     kNsa,
     kWriteVerify,
     true,
     12,
     {0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
    {0xaf,
     kNsa,
     kVerify,
     false,
     12,
     {0xaf, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f}},
};

bool offered(const Known& command, const ScsiGeometry& geometry) {
  if (command.action == kUnmap) return geometry.unmaps;
  if (command.action == kReserve) return geometry.reserves;
  if (command.action == kWriteSame) return geometry.max_write_same_blocks > 0;
  return true;
}

const Known* find(uint8_t code, uint8_t service_action, const ScsiGeometry& geometry) {
  for (const Known& command : kCommands) {
    if (command.code != code || !offered(command, geometry)) continue;
    if (command.service_action == kNoServiceAction || command.service_action == service_action) {
      return &command;
    }
  }
  return nullptr;
}

bool has_service_actions(uint8_t code, const ScsiGeometry& geometry) {
  return std::any_of(std::begin(kCommands), std::end(kCommands), [&](const Known& command) {
    return command.code == code && command.service_action != kNoServiceAction &&
           offered(command, geometry);
  });
}

// LBA and number of blocks, where the length of the CDB puts them (SPC-4 4.2.2).
void take_extent(std::span<const uint8_t> cdb, uint8_t length, ScsiOperation& operation) {
  switch (length) {
    case 6:
      operation.lba = load_be<uint32_t>(&cdb[0]) & 0x1fffffU;
      operation.blocks = cdb[4] == 0 ? 256 : cdb[4];
      break;
    case 10:
      operation.lba = load_be<uint32_t>(&cdb[2]);
      operation.blocks = load_be<uint16_t>(&cdb[7]);
      break;
    case 12:
      operation.lba = load_be<uint32_t>(&cdb[2]);
      operation.blocks = load_be<uint32_t>(&cdb[6]);
      break;
    default:
      operation.lba = load_be<uint64_t>(&cdb[2]);
      operation.blocks = load_be<uint32_t>(&cdb[10]);
      break;
  }
}

// The extent is on the medium, and no longer than `most` blocks.
ScsiSense check_extent(const ScsiOperation& operation, const ScsiGeometry& geometry,
                       uint64_t most) {
  if (operation.lba > geometry.blocks || operation.blocks > geometry.blocks - operation.lba) {
    return sense::kLbaOutOfRange;
  }
  if (operation.lba == geometry.blocks && operation.blocks == 0) return sense::kLbaOutOfRange;
  return operation.blocks > most ? sense::kInvalidFieldInCdb : sense::kNone;
}

ScsiSense parse_medium(std::span<const uint8_t> cdb, const Known& command,
                       const ScsiGeometry& geometry, ScsiOperation& operation) {
  take_extent(cdb, command.length, operation);
  uint64_t most = UINT32_MAX;
  switch (operation.action) {
    case kRead:
    case kWrite:
      operation.fua = command.length > 6 && (cdb[1] & 0x08U) != 0;
      most = geometry.max_transfer_blocks;
      break;
    case kWriteVerify:
    case kVerify:
      operation.compares = (cdb[1] & 0x02U) != 0;
      if (operation.action == kWriteVerify || operation.compares) {
        most = geometry.max_transfer_blocks;
      }
      break;
    case kCompareAndWrite:
      operation.blocks = cdb[13];
      operation.fua = (cdb[1] & 0x08U) != 0;
      most = kScsiMaxCompareBlocks;
      break;
    case kWriteSame:
      operation.unmap = (cdb[1] & 0x08U) != 0;
      operation.no_data = (cdb[1] & 0x01U) != 0;
      most = geometry.max_write_same_blocks;
      // Block limits: WSNZ.
      if (operation.blocks == 0) return sense::kInvalidFieldInCdb;
      break;
    default:
      break;
  }
  return check_extent(operation, geometry, most);
}

void parse_other(std::span<const uint8_t> cdb, const Known& command, ScsiOperation& operation) {
  operation.ten_byte_mode = command.length == 10;
  switch (operation.action) {
    case kRequestSense:
      operation.descriptor_sense = (cdb[1] & 0x01U) != 0;
      operation.parameter_bytes = cdb[4];
      break;
    case kInquiry:
      operation.vital_page = (cdb[1] & 1U) != 0;
      operation.page = cdb[2];
      operation.parameter_bytes = load_be<uint16_t>(&cdb[3]);
      break;
    case kModeSense:
      operation.no_block_descriptor = (cdb[1] & 0x08U) != 0;
      operation.page_control = cdb[2] >> 6U;
      operation.page = cdb[2] & 0x3fU;
      operation.subpage = cdb[3];
      [[fallthrough]];
    case kModeSelect:
      operation.parameter_bytes = command.length == 10 ? load_be<uint16_t>(&cdb[7]) : cdb[4];
      break;
    case kUnmap:
      operation.parameter_bytes = load_be<uint16_t>(&cdb[7]);
      break;
    case kReadCapacity16:
      operation.parameter_bytes = load_be<uint32_t>(&cdb[10]);
      break;
    case kReportLuns:
      operation.reporting = cdb[2];
      operation.parameter_bytes = load_be<uint32_t>(&cdb[6]);
      break;
    case kReportOperations:
      operation.with_timeouts = (cdb[2] & 0x80U) != 0;
      operation.reporting = cdb[2] & 0x07U;
      operation.asked_code = cdb[3];
      operation.asked_service_action = load_be<uint16_t>(&cdb[4]);
      operation.parameter_bytes = load_be<uint32_t>(&cdb[6]);
      break;
    default:
      break;
  }
}

bool on_medium(const Known& command) {
  switch (command.action) {
    case kRead:
    case kWrite:
    case kWriteVerify:
    case kVerify:
    case kCompareAndWrite:
    case kWriteSame:
    case kSynchronize:
      return true;
    case kNothing:
      return command.code == 0x34 || command.code == 0x90;  // PRE-FETCH
    default:
      return false;
  }
}

// What we know of a command, in the form of SPC-4 6.35.3; `answer` grows.
void add_usage(const Known& command, bool with_timeouts, std::vector<uint8_t>& answer) {
  answer.push_back(0);
  answer.push_back(static_cast<uint8_t>(with_timeouts ? 0x83 : 0x03));  // supported
  answer.push_back(0);
  answer.push_back(command.length);
  std::array<uint8_t, 16> usage = command.usage;
  usage[0] = command.code;
  if (command.service_action != kNoServiceAction) usage[1] = command.service_action;
  answer.insert(answer.end(), usage.begin(), usage.begin() + command.length);
}

void add_timeouts(std::vector<uint8_t>& answer) {
  answer.insert(answer.end(), {0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
}

// SPC-4 6.35.2: a descriptor for each command.
void add_all(const ScsiGeometry& geometry, bool with_timeouts, std::vector<uint8_t>& answer) {
  answer.resize(4);
  for (const Known& command : kCommands) {
    if (!offered(command, geometry)) continue;
    const bool action = command.service_action != kNoServiceAction;
    const uint8_t flags = (with_timeouts ? 0x02U : 0U) | (action ? 0x01U : 0U);
    answer.insert(answer.end(), {command.code, 0, 0, action ? command.service_action : uint8_t{0},
                                 0, flags, 0, command.length});
    if (with_timeouts) add_timeouts(answer);
  }
  store_be(answer.data(), static_cast<uint32_t>(answer.size() - 4));
}

}  // namespace

ScsiSense parse_cdb(std::span<const uint8_t, kScsiCdbBytes> cdb, const ScsiGeometry& geometry,
                    ScsiOperation& operation) {
  const uint8_t code = cdb[0];
  const uint8_t service_action = cdb[1] & 0x1fU;
  const Known* command = find(code, service_action, geometry);
  if (command == nullptr) {
    return has_service_actions(code, geometry) ? sense::kInvalidFieldInCdb
                                               : sense::kInvalidOperation;
  }
  for (size_t i = 1; i < command->length; ++i) {
    if ((cdb[i] & static_cast<uint8_t>(~command->usage[i])) != 0) return sense::kInvalidFieldInCdb;
  }
  operation = ScsiOperation();
  operation.action = command->action;
  if (on_medium(*command)) {
    if (const ScsiSense wrong = parse_medium(cdb, *command, geometry, operation);
        wrong != sense::kNone) {
      return wrong;
    }
  } else {
    parse_other(cdb, *command, operation);
  }
  return command->writes && geometry.read_only ? sense::kWriteProtected : sense::kNone;
}

ScsiSense report_operations(const ScsiOperation& operation, const ScsiGeometry& geometry,
                            std::vector<uint8_t>& answer) {
  answer.clear();
  const uint8_t code = operation.asked_code;
  const bool actions = has_service_actions(code, geometry);
  // SPC-4 table 253.
  switch (operation.reporting) {
    case 0:
      add_all(geometry, operation.with_timeouts, answer);
      return sense::kNone;
    case 1:
      if (actions) return sense::kInvalidFieldInCdb;
      break;
    case 2:
      if (!actions) return sense::kInvalidFieldInCdb;
      break;
    case 3:
      break;
    default:
      return sense::kInvalidFieldInCdb;
  }
  const bool in_range = !actions || operation.asked_service_action < kNoServiceAction;
  const Known* command =
      in_range ? find(code, static_cast<uint8_t>(operation.asked_service_action), geometry)
               : nullptr;
  // Without a service action in the field, as option 3 has it for such commands.
  if (command != nullptr && !actions && operation.reporting == 3 &&
      operation.asked_service_action != 0) {
    command = nullptr;
  }
  if (command == nullptr) {
    answer = {0, 0x01, 0, 0};  // not supported
    return sense::kNone;
  }
  add_usage(*command, operation.with_timeouts, answer);
  if (operation.with_timeouts) add_timeouts(answer);
  return sense::kNone;
}

}  // namespace plumb
