#include "snapshot/arrays/extended_copy.h"

#include <catch2/catch.hpp>

#include "base/endian.h"
#include "rdm/fake_lun.h"

namespace plumb {
namespace {

LunId id(char last) {
  return LunId::parse(std::string("naa.6001405aaaaaaaaaaaaaaaaaaaaaaaa") + last).value();
}

// As an array answers RECEIVE COPY OPERATING PARAMETERS.
std::vector<uint8_t> parameters(uint32_t segment_bytes, std::vector<uint8_t> types) {
  std::vector<uint8_t> answer(44);
  store_be<uint32_t>(&answer[16], segment_bytes);
  answer[43] = static_cast<uint8_t>(types.size());
  answer.insert(answer.end(), types.begin(), types.end());
  store_be<uint32_t>(answer.data(), static_cast<uint32_t>(answer.size() - 4));
  return answer;
}

FakeLun::Answer refuses(ScsiStatus status, uint8_t key, uint8_t asc, uint8_t ascq, int times) {
  return [=, left = times](LunCommand& command) mutable {
    command.status = left-- > 0 ? status : ScsiStatus::kGood;
    command.sense[0] = 0x70;
    command.sense[2] = key;
    command.sense[12] = asc;
    command.sense[13] = ascq;
    command.sense_bytes = 18;
    return 0;
  };
}

ExtendedCopy between(FakeLun& manager) {
  return {manager, copy_lun(id('1'), 512).value(), copy_lun(id('2'), 512).value()};
}

}  // namespace

TEST_CASE("the parameter list is that of SPC-4") {
  const auto list = copy_parameters(copy_lun(id('1'), 512).value(), copy_lun(id('2'), 512).value(),
                                    0x0102030405060708, 0x1234);
  const std::vector<uint8_t> want = {
      // header: list 1, not held; 64 bytes of LUNs, 28 of segments, nothing inline
      0x01, 0x10, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0,
      // identification descriptor: binary, NAA, 16 bytes; blocks of 512 bytes
      0xe4, 0, 0, 0, 1, 3, 0, 16, 0x60, 0x01, 0x40, 0x5a, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa,
      0xaa, 0xaa, 0xaa, 0xaa, 0xa1, 0, 0, 0, 0, 0, 0, 2, 0, 0xe4, 0, 0, 0, 1, 3, 0, 16, 0x60, 0x01,
      0x40, 0x5a, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xa2, 0, 0, 0,
      0, 0, 0, 2, 0,
      // segment: block to block, 24 bytes, from LUN 0 to LUN 1, blocks, both addresses
      0x02, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8};
  CHECK(list == want);
}

TEST_CASE("a copy is whole, in segments of what the LUN takes") {
  const auto [limit, blocks, want] = GENERATE(table<uint64_t, uint64_t, std::vector<unsigned>>({
      {0, 10, {10}},
      {0, 131'071, {65'535, 65'535, 1}},
      {4096, 17, {8, 8, 1}},
      {4097, 8, {8}},
      {512, 2, {1, 1}},
  }));
  FakeLun manager;
  REQUIRE(between(manager).copy(blocks, {limit}).ok());
  const auto sent = manager.sent();
  REQUIRE(sent.size() == want.size());
  uint64_t at = 0;
  for (size_t i = 0; i < sent.size(); ++i) {
    CHECK(sent[i].cdb[0] == 0x83);
    CHECK(load_be<uint32_t>(&sent[i].cdb[10]) == sent[i].data.size());
    const uint8_t* segment = &sent[i].data[80];
    CHECK(load_be<uint16_t>(segment + 10) == want[i]);
    CHECK(load_be<uint64_t>(segment + 12) == at);
    CHECK(load_be<uint64_t>(segment + 20) == at);
    at += want[i];
  }
  CHECK(at == blocks);
}

TEST_CASE("unit attentions and a busy LUN are waited out, other refusals end the copy") {
  FakeLun manager;
  manager.answers(refuses(ScsiStatus::kCheckCondition, 6, 0x29, 0, 3));
  CHECK(between(manager).copy(1, {}).ok());
  CHECK(manager.sent().size() == 4);
  manager.answers(refuses(ScsiStatus::kBusy, 0, 0, 0, 2));
  CHECK(between(manager).copy(1, {}).ok());

  manager.answers(refuses(ScsiStatus::kCheckCondition, 0x0a, 0x0d, 0x02, 99));
  Result<> copied = between(manager).copy(100'000, {});
  REQUIRE_FALSE(copied.ok());
  CHECK(copied.error().message == "the LUN refuses EXTENDED COPY: sense a/0d/02, at block 0");
  manager.answers(refuses(ScsiStatus::kReservationConflict, 0, 0, 0, 99));
  copied = between(manager).copy(1, {});
  CHECK_THAT(copied.error().message, Catch::Contains("SCSI status 0x18"));
  manager.answers(refuses(ScsiStatus::kBusy, 0, 0, 0, 99));
  CHECK_FALSE(between(manager).copy(1, {}).ok());
  manager.answers([](LunCommand&) { return ENODEV; });
  copied = between(manager).copy(1, {});
  CHECK_THAT(copied.error().message,
             Catch::Contains("EXTENDED COPY cannot be sent: No such device"));
}

TEST_CASE("a LUN says what it can copy") {
  CHECK(parse_operating_parameters(parameters(1U << 28U, {0x02, 0xe4})).value().segment_bytes ==
        1U << 28U);
  CHECK_FALSE(parse_operating_parameters(parameters(0, {0xe4})).ok());
  CHECK_FALSE(parse_operating_parameters(parameters(0, {0x02})).ok());
  CHECK_FALSE(parse_operating_parameters(parameters(0, {})).ok());
  std::vector<uint8_t> answer = parameters(0, {0x02, 0xe4});
  for (size_t size = 0; size < answer.size(); ++size) {
    CHECK_FALSE(parse_operating_parameters({answer.data(), size}).ok());
  }
  answer[43] = 255;  // more than there is
  CHECK(parse_operating_parameters(answer).ok());

  FakeLun manager;
  manager.answers([](LunCommand& command) {
    const auto told = parameters(4096, {0xe4, 0x02});
    std::memcpy(command.data.data(), told.data(), told.size());
    command.moved_bytes = told.size();
    return 0;
  });
  CHECK(ExtendedCopy::limits_of(manager).value().segment_bytes == 4096);
  CHECK(manager.sent()[0].cdb[0] == 0x84);
  CHECK(manager.sent()[0].cdb[1] == 3);
  manager.answers(refuses(ScsiStatus::kCheckCondition, 5, 0x20, 0, 99));
  CHECK_FALSE(ExtendedCopy::limits_of(manager).ok());
}

TEST_CASE("LUNs without an identity that a copy manager knows are refused") {
  CHECK(copy_lun(LunId::parse("eui.0123456789abcdef").value(), 512).value().designator.size() == 8);
  CHECK_FALSE(copy_lun(LunId::parse("t10.ATA Disk 1").value(), 512).ok());
}

}  // namespace plumb
