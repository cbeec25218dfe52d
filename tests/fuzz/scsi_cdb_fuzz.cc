// Fuzzes what a guest's SCSI commands are parsed with: CDBs, UNMAP and MODE SELECT parameters. What
// must hold: what is accepted stays on the medium and within the limits; nothing is written to a
// read-only disk; and answers say their own length.
#include <fuzzer/FuzzedDataProvider.h>

#include "base/check.h"
#include "base/endian.h"
#include "blockdev/scsi_pages.h"

namespace {

using namespace plumb;

ScsiDiskFacts make_facts(FuzzedDataProvider& input) {
  ScsiDiskFacts facts;
  ScsiGeometry& geometry = facts.geometry;
  geometry.block_size = input.ConsumeBool() ? 512 : 4096;
  geometry.blocks = input.ConsumeIntegralInRange<uint64_t>(1, 1ULL << 40U);
  geometry.max_transfer_blocks = input.ConsumeIntegralInRange<uint32_t>(1, 8192);
  geometry.max_write_same_blocks = input.ConsumeIntegralInRange<uint32_t>(0, 65536);
  geometry.unmaps = input.ConsumeBool();
  geometry.read_only = input.ConsumeBool();
  facts.physical_block_size = 4096;
  facts.max_unmap_blocks = input.ConsumeIntegralInRange<uint32_t>(0, 1U << 20U);
  return facts;
}

bool inside(const ScsiGeometry& geometry, uint64_t lba, uint32_t blocks) {
  return lba <= geometry.blocks && blocks <= geometry.blocks - lba;
}

void check_accepted(const ScsiOperation& operation, const ScsiGeometry& geometry) {
  ENSURE(inside(geometry, operation.lba, operation.blocks));
  switch (operation.action) {
    case ScsiAction::kWrite:
    case ScsiAction::kWriteVerify:
      ENSURE(!geometry.read_only);
      [[fallthrough]];
    case ScsiAction::kRead:
      ENSURE(operation.blocks <= geometry.max_transfer_blocks);
      break;
    case ScsiAction::kCompareAndWrite:
      ENSURE(!geometry.read_only && operation.blocks <= kScsiMaxCompareBlocks);
      break;
    case ScsiAction::kWriteSame:
      ENSURE(!geometry.read_only && operation.blocks > 0);
      ENSURE(operation.blocks <= geometry.max_write_same_blocks);
      break;
    case ScsiAction::kUnmap:
      ENSURE(!geometry.read_only && geometry.unmaps);
      break;
    default:
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  FuzzedDataProvider input(data, bytes);
  const ScsiDiskFacts facts = make_facts(input);
  std::array<uint8_t, kScsiCdbBytes> cdb{};
  input.ConsumeData(cdb.data(), 16);
  const std::vector<uint8_t> parameters = input.ConsumeRemainingBytes<uint8_t>();
  ScsiOperation operation;
  if (parse_cdb(cdb, facts.geometry, operation) != sense::kNone) return 0;
  check_accepted(operation, facts.geometry);
  std::vector<uint8_t> answer;
  std::vector<ScsiExtent> extents;
  switch (operation.action) {
    case ScsiAction::kReportOperations:
      if (report_operations(operation, facts.geometry, answer) != sense::kNone) break;
      ENSURE(answer.size() >= 4);
      if (operation.reporting == 0) {
        ENSURE(answer.size() == 4 + load_be<uint32_t>(answer.data()));
      }
      break;
    case ScsiAction::kModeSense:
      if (mode_sense(operation, facts, answer) != sense::kNone) break;
      ENSURE(answer.size() < 256);
      break;
    case ScsiAction::kModeSelect:
      static_cast<void>(mode_select(operation, facts, parameters));
      break;
    case ScsiAction::kUnmap: {
      if (parse_unmap(parameters, facts, extents) != sense::kNone) break;
      uint64_t sum = 0;
      for (const ScsiExtent& extent : extents) {
        ENSURE(extent.blocks > 0 && inside(facts.geometry, extent.lba, extent.blocks));
        sum += extent.blocks;
      }
      ENSURE(sum <= facts.max_unmap_blocks);
      break;
    }
    default:
      break;
  }
  return 0;
}
