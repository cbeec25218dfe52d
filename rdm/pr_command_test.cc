#include "rdm/pr_command.h"

#include <catch2/catch.hpp>

#include "rdm/fake_pr_command.h"

namespace plumb {
namespace {

PrOut accepted(const PrCdb& cdb, const std::vector<std::byte>& list) {
  const auto parsed = parse_pr_out(cdb, list);
  REQUIRE(std::holds_alternative<PrOut>(parsed));
  return std::get<PrOut>(parsed);
}

ScsiSense refused(const PrCdb& cdb, const std::vector<std::byte>& list) {
  const auto parsed = parse_pr_out(cdb, list);
  REQUIRE(std::holds_alternative<ScsiSense>(parsed));
  return std::get<ScsiSense>(parsed);
}

ScsiSense refused_in(const PrCdb& cdb) {
  const auto parsed = parse_pr_in(cdb);
  REQUIRE(std::holds_alternative<ScsiSense>(parsed));
  return std::get<ScsiSense>(parsed);
}

PrCdb with(PrCdb cdb, size_t at, int value) {
  cdb[at] = static_cast<std::byte>(value);
  return cdb;
}

}  // namespace

TEST_CASE("PR OUT: keys, type and flags come out of their bytes") {
  // As sg_persist --out --register --param-rk=0x123456789abcdef0 --param-sark=0x11 --param-aptpl.
  PrCdb cdb{};
  const auto raw = to_bytes({0x5f, 0x00, 0x00, 0, 0, 0, 0, 0, 0x18, 0});
  std::copy(raw.begin(), raw.end(), cdb.begin());
  const PrOut out =
      accepted(cdb, to_bytes({0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0,    0, 0, 0,
                              0,    0,    0,    0x11, 0,    0,    0,    0,    0x01, 0, 0, 0}));
  CHECK(out.action == PrOutAction::kRegister);
  CHECK(out.key == 0x123456789abcdef0);
  CHECK(out.service_action_key == 0x11);
  CHECK(out.aptpl);
  CHECK_FALSE(out.all_tg_pt);
  CHECK_FALSE(out.spec_i_pt);
}

TEST_CASE("PR OUT: every type of reservation, in every action that has one") {
  for (const int action : {1, 2, 4, 5}) {
    for (const int type : {1, 3, 5, 6, 7, 8}) {
      CHECK(accepted(pr_out_cdb(action, type), pr_list(1, 2)).type == type);
    }
    for (const int type : {0, 2, 4, 9, 15}) {
      CHECK(refused(pr_out_cdb(action, type), pr_list(1, 2)) == sense::kInvalidFieldInCdb);
    }
    // A scope other than the logical unit: the element scope of old standards.
    CHECK(refused(pr_out_cdb(action, 0x25), pr_list(1, 2)) == sense::kInvalidFieldInCdb);
  }
}

TEST_CASE("PR OUT: actions without a type ignore what stands there") {
  for (const int action : {0, 3, 6}) {
    CHECK(accepted(pr_out_cdb(action, 0xff), pr_list(1, 2)).type == 0);
  }
}

TEST_CASE("PR OUT: flags are those of the REGISTER actions only") {
  const PrOut registered = accepted(pr_out_cdb(6), pr_list(0, 1, 0x05));
  CHECK(registered.aptpl);
  CHECK(registered.all_tg_pt);
  const PrOut reserved = accepted(pr_out_cdb(1, 5), pr_list(1, 0, 0x05));
  CHECK_FALSE(reserved.aptpl);
  CHECK_FALSE(reserved.all_tg_pt);
}

TEST_CASE("PR OUT: a list of initiator ports goes with REGISTER only") {
  CHECK(accepted(pr_out_cdb(0, 0, 60), pr_list(0, 1, 0x08, 60)).spec_i_pt);
  for (const int action : {1, 2, 3, 4, 5, 6}) {
    CHECK(refused(pr_out_cdb(action, 5, 60), pr_list(0, 1, 0x08, 60)) == sense::kInvalidParameter);
  }
}

TEST_CASE("PR OUT: service actions that do not exist") {
  for (int action = 8; action < 32; ++action) {
    CHECK(refused(pr_out_cdb(action), pr_list(1)) == sense::kInvalidFieldInCdb);
  }
}

TEST_CASE("PR OUT: a parameter list of any other length") {
  for (const size_t size : {0U, 1U, 23U, 25U, 8192U}) {
    std::vector<std::byte> list(size);
    CHECK(refused(pr_out_cdb(0, 0, static_cast<uint32_t>(size)), list) ==
          sense::kParameterListLength);
  }
  // The CDB and the data disagree, in both directions and at the end of the range.
  CHECK(refused(pr_out_cdb(0, 0, 24), pr_list(1, 2, 0, 32)) == sense::kParameterListLength);
  CHECK(refused(pr_out_cdb(0, 0, 32), pr_list(1, 2)) == sense::kParameterListLength);
  CHECK(refused(pr_out_cdb(0, 0, 0xffffffff), pr_list(1, 2)) == sense::kParameterListLength);
}

TEST_CASE("PR OUT: other commands, and auto contingent allegiance") {
  CHECK(refused(with(pr_out_cdb(0), 0, 0x5e), pr_list(1)) == sense::kInvalidOperation);
  CHECK(refused(with(pr_out_cdb(0), 9, 0x04), pr_list(1)) == sense::kInvalidFieldInCdb);
}

TEST_CASE("PR IN: service action and allocation length") {
  for (int action = 0; action < 4; ++action) {
    const auto parsed = parse_pr_in(pr_in_cdb(action, 0x1234));
    REQUIRE(std::holds_alternative<PrIn>(parsed));
    CHECK(static_cast<int>(std::get<PrIn>(parsed).action) == action);
    CHECK(std::get<PrIn>(parsed).allocation_bytes == 0x1234);
  }
}

TEST_CASE("PR IN: what it refuses") {
  for (int action = 4; action < 32; ++action) {
    CHECK(refused_in(pr_in_cdb(action)) == sense::kInvalidFieldInCdb);
  }
  CHECK(refused_in(with(pr_in_cdb(0), 0, 0x12)) == sense::kInvalidOperation);
  CHECK(refused_in(with(pr_in_cdb(0), 9, 0x04)) == sense::kInvalidFieldInCdb);
}

TEST_CASE("sense in the fixed format") {
  const auto sense = fixed_sense(sense::kInvalidRelease);
  const auto wanted = to_bytes({0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0x04, 0, 0, 0, 0});
  CHECK(std::vector(sense.begin(), sense.end()) == wanted);
}

}  // namespace plumb
