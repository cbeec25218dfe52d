#include "rdm/lun_answers.h"

#include <catch2/catch.hpp>
#include <vector>

#include "base/endian.h"

namespace plumb {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes adjusted(std::initializer_list<unsigned> cdb_bytes, Bytes answer, const LunView& view = {}) {
  std::array<uint8_t, kScsiCdbBytes> cdb{};
  std::copy(cdb_bytes.begin(), cdb_bytes.end(), cdb.begin());
  answer.resize(adjust_answer(cdb, answer, view));
  return answer;
}

}  // namespace

TEST_CASE("lun answers: INQUIRY data, but for what the guest cannot have") {
  Bytes inquiry(36, 0xff);
  Bytes wanted = inquiry;
  wanted[3] = 0xdf;  // NORMACA
  wanted[5] = 0xc6;  // TPGS, 3PC, PROTECT
  CHECK(adjusted({0x12, 0, 0, 0, 36}, inquiry) == wanted);
  CHECK(adjusted({0x12, 0, 0, 0, 5}, Bytes(5, 0xff)) == Bytes{0xff, 0xff, 0xff, 0xdf, 0xff});
  // A page of vital product data stays as it is.
  CHECK(adjusted({0x12, 1, 0x83, 0, 36}, inquiry) == inquiry);
}

TEST_CASE("lun answers: block limits are no more than what can be passed") {
  const LunView view{.max_transfer_blocks = 0x100};
  Bytes page(64, 0xff);
  Bytes cut = adjusted({0x12, 1, 0xb0, 0, 64}, page, view);
  CHECK(cut[5] == 0x80);  // COMPARE AND WRITE, which sends the blocks twice
  CHECK(load_be<uint32_t>(&cut[8]) == 0x100);
  CHECK(load_be<uint32_t>(&cut[12]) == 0x100);
  CHECK(Bytes(cut.begin() + 16, cut.begin() + 44) == Bytes(28, 0xff));
  CHECK(Bytes(cut.begin() + 44, cut.end()) == Bytes(20, 0));

  Bytes small(64, 0);
  small[5] = 1;
  store_be(&small[12], 0x20U);
  cut = adjusted({0x12, 1, 0xb0, 0, 64}, small, view);
  CHECK(cut[5] == 1);
  CHECK(load_be<uint32_t>(&cut[8]) == 0x100);  // 0: no limit of the LUN's own
  CHECK(load_be<uint32_t>(&cut[12]) == 0x20);
  // Cut within a field: that stays.
  CHECK(adjusted({0x12, 1, 0xb0, 0, 10}, Bytes(10, 0xff), view)[9] == 0xff);
}

TEST_CASE("lun answers: no protection information, and write protection for a reader") {
  CHECK(adjusted({0x9e, 0x10}, Bytes(32, 0xff))[12] == 0xf0);
  CHECK(adjusted({0x9e, 0x12}, Bytes(32, 0xff))[12] == 0xff);
  const LunView reader{.read_only = true};
  CHECK(adjusted({0x1a}, Bytes(8, 0), reader) == Bytes{0, 0, 0x80, 0, 0, 0, 0, 0});
  CHECK(adjusted({0x5a}, Bytes(8, 0), reader) == Bytes{0, 0, 0, 0x80, 0, 0, 0, 0});
  CHECK(adjusted({0x5a}, Bytes(8, 0)) == Bytes(8, 0));
}

TEST_CASE("lun answers: of the LUN's operation codes those that the guest may send") {
  // READ(10), FORMAT UNIT, EXTENDED COPY (service action 0), READ CAPACITY(16), SET TARGET PORT
  // GROUPS; the second with timeouts.
  const Bytes read{0x28, 0, 0, 0, 0, 0, 0, 10};
  Bytes format{0x04, 0, 0, 0, 0, 0x02, 0, 6};
  format.resize(20);
  const Bytes copy{0x83, 0, 0, 0, 0, 1, 0, 16};
  const Bytes capacity{0x9e, 0, 0, 0x10, 0, 1, 0, 16};
  const Bytes set_groups{0xa4, 0, 0, 0x0a, 0, 1, 0, 12};
  Bytes answer{0, 0, 0, 52};
  for (const Bytes& part : {read, format, copy, capacity, set_groups}) {
    answer.insert(answer.end(), part.begin(), part.end());
  }
  Bytes wanted{0, 0, 0, 16};
  for (const Bytes& part : {read, capacity}) {
    wanted.insert(wanted.end(), part.begin(), part.end());
  }
  CHECK(adjusted({0xa3, 0x0c, 0}, answer) == wanted);
  // A length that says more than there is, and a descriptor that is cut.
  answer[0] = 0xff;
  answer.resize(30);
  CHECK(adjusted({0xa3, 0x0c, 0}, answer) == Bytes{0, 0, 0, 8, 0x28, 0, 0, 0, 0, 0, 0, 10});
}

TEST_CASE("lun answers: one operation code is supported if the guest may send it") {
  const Bytes supported{0, 3, 0, 10, 0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x04};
  Bytes wanted = supported;
  wanted[13] = 0;  // no NACA
  CHECK(adjusted({0xa3, 0x0c, 1, 0x28}, supported) == wanted);
  CHECK(adjusted({0xa3, 0x0c, 1, 0x04}, supported) == Bytes{0, 1, 0, 0});
  CHECK(adjusted({0xa3, 0x0c, 3, 0x9e, 0, 0x11}, supported) == Bytes{0, 1, 0, 0});
  CHECK(adjusted({0xa3, 0x0c, 3, 0x9e, 0, 0x12}, supported).size() == supported.size());
  CHECK(adjusted({0xa3, 0x0c, 1, 0x04}, Bytes{0, 3}) == Bytes{0, 3});
}

}  // namespace plumb
