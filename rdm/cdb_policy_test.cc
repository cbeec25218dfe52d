#include "rdm/cdb_policy.h"

#include <fmt/core.h>

#include <catch2/catch.hpp>
#include <string>

namespace plumb {
namespace {

using Cdb = std::array<uint8_t, kScsiCdbBytes>;

Cdb cdb_of(std::initializer_list<unsigned> bytes) {
  Cdb cdb{};
  size_t at = 0;
  for (const unsigned byte : bytes) cdb.at(at++) = static_cast<uint8_t>(byte);
  return cdb;
}

// E engine, P pass, M emulated, R reservation; refused: u 05/20/00, f 05/24/00, w 07/27/00.
char letter(const CdbVerdict& verdict) {
  switch (verdict.what) {
    case CdbClass::kEngine:
      return 'E';
    case CdbClass::kPass:
      return 'P';
    case CdbClass::kEmulate:
      return 'M';
    case CdbClass::kReservation:
      return 'R';
    case CdbClass::kDeny:
      break;
  }
  if (verdict.sense == sense::kInvalidOperation) return 'u';
  if (verdict.sense == sense::kInvalidFieldInCdb) return 'f';
  return verdict.sense == sense::kWriteProtected ? 'w' : '?';
}

std::string row(unsigned high, bool read_only) {
  std::string letters;
  for (unsigned low = 0; low < 16; ++low) {
    letters += letter(judge_cdb(cdb_of({high << 4U | low}), read_only));
  }
  return letters;
}

std::string service_actions(unsigned code) {
  std::string letters;
  for (unsigned action = 0; action < 32; ++action) {
    letters += letter(judge_cdb(cdb_of({code, action}), false));
  }
  return letters;
}

}  // namespace

TEST_CASE("cdb policy: what becomes of each operation code") {
  // Service action 0 where there are any.
  constexpr const char* kWritable[16] = {
      //              0123456789abcdef
      /* 0 */ "PuuMuuuuEuEuuuuu",
      /* 1 */ "uuPuuuuuuuPMuMMu",
      /* 2 */ "uuuuuPuuEuEuuuPP",
      /* 3 */ "uuuuPEuPuuuuuuuu",
      /* 4 */ "uPPuuuuuuuuuuPuu",
      /* 5 */ "uuuuuuuuuuPuuuRR",
      /* 6 */ "uuuuuuuuuuuuuuuu",
      /* 7 */ "uuuuuuuuuuuuuuuu",
      /* 8 */ "uuuuuuuuEPEPuuPP",
      /* 9 */ "PEuPuuuuuuuuuufu",
      /* a */ "MuufuuuuEuEuuuPP",
      /* b */ "uuuuuuuPuuuuuuuu",
      /* c */ "uuuuuuuuuuuuuuuu",
      /* d */ "uuuuuuuuuuuuuuuu",
      /* e */ "uuuuuuuuuuuuuuuu",
      /* f */ "uuuuuuuuuuuuuuuu",
  };
  constexpr const char* kReadOnly[16] = {
      //              0123456789abcdef
      /* 0 */ "PuuMuuuuEuwuuuuu",
      /* 1 */ "uuPuuuuuuuPMuMMu",
      /* 2 */ "uuuuuPuuEuwuuuwP",
      /* 3 */ "uuuuPEuPuuuuuuuu",
      /* 4 */ "uwwuuuuuuuuuuPuu",
      /* 5 */ "uuuuuuuuuuPuuuRw",
      /* 6 */ "uuuuuuuuuuuuuuuu",
      /* 7 */ "uuuuuuuuuuuuuuuu",
      /* 8 */ "uuuuuuuuEwwwuuwP",
      /* 9 */ "PEuwuuuuuuuuuufu",
      /* a */ "MuufuuuuEuwuuuwP",
      /* b */ "uuuuuuuPuuuuuuuu",
      /* c */ "uuuuuuuuuuuuuuuu",
      /* d */ "uuuuuuuuuuuuuuuu",
      /* e */ "uuuuuuuuuuuuuuuu",
      /* f */ "uuuuuuuuuuuuuuuu",
  };
  for (unsigned high = 0; high < 16; ++high) {
    INFO("operation codes " << high << "x");
    CHECK(row(high, false) == kWritable[high]);
    CHECK(row(high, true) == kReadOnly[high]);
  }
}

TEST_CASE("cdb policy: what becomes of each service action") {
  for (unsigned code = 0; code < 256; ++code) {
    INFO("operation code " << code);
    const std::string found = service_actions(code);
    if (code == 0x9e) {  // READ CAPACITY(16), GET LBA STATUS
      CHECK(found == "ffffffffffffffffPfPfffffffffffff");
    } else if (code == 0xa3) {  // REPORT TARGET PORT GROUPS, REPORT SUPPORTED OPERATION CODES
      CHECK(found == "ffffffffffPfPfffffffffffffffffff");
    } else if (code == 0x4d) {  // LOG SENSE: bit 0 is SP, save parameters
      CHECK(found == "PfPfPfPfPfPfPfPfPfPfPfPfPfPfPfPf");
    } else {  // all alike: these bits are not a service action, or the broker looks at it
      CHECK(found == std::string(32, found.front()));
    }
  }
}

TEST_CASE("cdb policy: the control byte is zero, in commands of every length") {
  for (unsigned code = 0; code < 256; ++code) {
    Cdb cdb = cdb_of({code, code == 0x9e ? 0x10U : code == 0xa3 ? 0x0aU : 0U});
    if (judge_cdb(cdb, false).what == CdbClass::kDeny) continue;
    INFO("operation code " << code);
    const size_t control = code < 0x20 ? 5 : code < 0x60 ? 9 : code < 0xa0 ? 15 : 11;
    for (const unsigned bit : {0x04U, 0x01U, 0x80U}) {  // NACA, link, the vendor's
      cdb[control] = static_cast<uint8_t>(bit);
      CHECK(letter(judge_cdb(cdb, false)) == 'f');
    }
  }
}

TEST_CASE("cdb policy: protection information is refused where a command can ask for it") {
  for (const unsigned code : {0x28U, 0x2aU, 0x2eU, 0x2fU, 0x41U, 0x88U, 0x89U, 0x8aU, 0x8bU, 0x8eU,
                              0x8fU, 0x93U, 0xa8U, 0xaaU, 0xaeU, 0xafU}) {
    INFO("operation code " << code);
    for (const unsigned bit : {0x20U, 0x40U, 0x80U}) {
      CHECK(letter(judge_cdb(cdb_of({code, bit}), false)) == 'f');
    }
    CHECK(letter(judge_cdb(cdb_of({code, 0x1e}), false)) != 'f');
  }
}

TEST_CASE("cdb policy: what changes the medium is known, and what may not be sent twice") {
  std::string changes;
  std::string once;
  for (unsigned code = 0; code < 256; ++code) {
    const CdbVerdict verdict = judge_cdb(cdb_of({code}), false);
    if (verdict.changes) changes += fmt::format("{:02x} ", code);
    if (verdict.what != CdbClass::kDeny && !verdict.repeatable)
      once += fmt::format("{:02x} ", code);
  }
  CHECK(changes == "0a 2a 2e 41 42 89 8a 8b 8e 93 aa ae ");
  CHECK(once == "5f 89 ");
}

TEST_CASE("cdb policy: how much a command moves, and which way") {
  struct Case {
    Cdb cdb;
    CdbData direction;
    uint64_t bytes;
    bool of_blocks;
  };
  using enum CdbData;
  const Case cases[] = {
      {cdb_of({0x00}), kNone, 0, false},
      {cdb_of({0x08, 0, 0, 1, 0}), kIn, 256 * 512, true},
      {cdb_of({0x0a, 0, 0, 1, 3}), kOut, 3 * 512, true},
      {cdb_of({0x12, 1, 0x83, 0x12, 0x34}), kIn, 0x1234, false},
      {cdb_of({0x25}), kIn, 8, false},
      {cdb_of({0x28, 0, 0, 0, 0, 1, 0, 0xff, 0xff}), kIn, 0xffff * 512ULL, true},
      {cdb_of({0x2f, 0x00, 0, 0, 0, 1, 0, 0, 2}), kOut, 0, true},
      {cdb_of({0x2f, 0x02, 0, 0, 0, 1, 0, 0, 2}), kOut, 1024, true},
      {cdb_of({0x2f, 0x04, 0, 0, 0, 1, 0, 0, 2}), kOut, 0, true},
      {cdb_of({0x2f, 0x06, 0, 0, 0, 1, 0, 0, 2}), kOut, 512, true},
      {cdb_of({0x41, 0, 0, 0, 0, 1, 0, 0, 9}), kOut, 512, true},
      {cdb_of({0x42, 0, 0, 0, 0, 0, 0, 0, 24}), kOut, 24, false},
      {cdb_of({0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}), kIn, 0xffffffffULL * 512,
       true},
      {cdb_of({0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3}), kOut, 6 * 512, true},
      {cdb_of({0x93, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3}), kOut, 512, true},
      {cdb_of({0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3}), kOut, 0, true},
      {cdb_of({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32}), kIn, 32, false},
      {cdb_of({0xa3, 0x0c, 0, 0, 0, 0, 1, 0, 0, 0}), kIn, 1U << 24U, false},
      {cdb_of({0xaa, 0, 0, 0, 0, 0, 0, 0, 1, 0}), kOut, 256 * 512, true},
  };
  for (const Case& wanted : cases) {
    INFO("operation code " << unsigned{wanted.cdb[0]} << ", byte 1 " << unsigned{wanted.cdb[1]});
    const CdbTransfer seen = transfer_of(wanted.cdb, 512);
    CHECK(seen.direction == wanted.direction);
    CHECK(seen.bytes == wanted.bytes);
    CHECK(seen.of_blocks == wanted.of_blocks);
  }
  Cdb cdb = cdb_of({0xa3, 0x0c});
  const CdbTransfer report = transfer_of(cdb, 512);
  set_cdb_field(cdb, report.length_at, report.length_bytes, 0x12345678);
  CHECK(transfer_of(cdb, 512).bytes == 0x12345678);
}

}  // namespace plumb
