#include "blockdev/cow_overlay_format.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>

#include "base/crc32c.h"

namespace plumb {
namespace {

constexpr const char* kUuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
constexpr const char* kOther = "3f2504e0-4f89-41d3-9a0c-0305e82c3302";

CowHeader good_header() {
  return {.uuid = kUuid, .disk = "/images/root.img", .base_bytes = 10'000'000 * 512ULL};
}

// The page with a change, and a right checksum again.
template <typename Record>
CowPage changed(CowPage page, const std::function<void(Record&)>& change) {
  Record record;
  std::memcpy(&record, page.data(), sizeof(record));
  change(record);
  record.crc32c = 0;
  record.crc32c = crc32c({reinterpret_cast<const char*>(&record), sizeof(record)});
  std::memcpy(page.data(), &record, sizeof(record));
  return page;
}

std::string header_error(const std::function<void(CowHeaderRecord&)>& change) {
  Result<CowHeader> parsed =
      parse_cow_header(changed(print_cow_header(good_header()), change), "x.cow");
  return parsed.ok() ? "" : parsed.error().message;
}
std::string link_error(const std::function<void(CowLinkRecord&)>& change) {
  const CowPage page = print_cow_link({.uuid = kUuid, .older = kOther});
  Result<CowLink> parsed = parse_cow_link(changed(page, change), kUuid, "x.cow");
  return parsed.ok() ? "" : parsed.error().message;
}
std::string state_error(const std::function<void(CowStateRecord&)>& change) {
  const CowPage page = print_cow_state({.uuid = kUuid, .reason = "full"});
  Result<CowState> parsed = parse_cow_state(changed(page, change), kUuid, "x.cow");
  return parsed.ok() ? "" : parsed.error().message;
}

}  // namespace

TEST_CASE("cow format: a header is read as it was written") {
  for (const uint32_t grain : {4096U, 65536U, 1U << 20U}) {
    CowHeader header = good_header();
    header.grain_bytes = grain;
    header.limit_bytes = 1U << 30U;
    header.disk = std::string(kCowMaxTextBytes, 'd');
    const CowHeader read = parse_cow_header(print_cow_header(header), "x.cow").value();
    CHECK(read.uuid == header.uuid);
    CHECK(read.disk == header.disk);
    CHECK(read.base_bytes == header.base_bytes);
    CHECK(read.grain_bytes == grain);
    CHECK(read.limit_bytes == header.limit_bytes);
  }
}

TEST_CASE("cow format: a link is read as it was written") {
  for (const std::string older : {"", kOther}) {
    const CowPage page = print_cow_link({.uuid = kUuid, .older = older});
    CHECK(parse_cow_link(page, kUuid, "x.cow").value().older == older);
  }
}

TEST_CASE("cow format: a state is read as it was written") {
  const CowState state{.uuid = kUuid,
                       .condition = CowCondition::kClean,
                       .opens = 7,
                       .base = {.file = true, .size_bytes = 4096, .mtime_ns = -3, .ctime_ns = 9},
                       .reason = ""};
  const CowState read = parse_cow_state(print_cow_state(state), kUuid, "x.cow").value();
  CHECK(read.condition == CowCondition::kClean);
  CHECK(read.opens == 7);
  CHECK(read.base == state.base);
  const CowState broken{
      .uuid = kUuid, .condition = CowCondition::kBroken, .reason = std::string(1000, 'r')};
  CHECK(parse_cow_state(print_cow_state(broken), kUuid, "x.cow").value().reason ==
        std::string(256, 'r'));
}

TEST_CASE("cow format: the numbers on the medium are where the page says") {
  const CowPage page = print_cow_header(good_header());
  CHECK(std::memcmp(page.data(), "plumbcow", 8) == 0);
  CHECK(page[12] == std::byte{1});
  CHECK(std::memcmp(page.data() + 16, kUuid, 36) == 0);
  CHECK(page[54] == std::byte{1});  // 65536, little endian
}

TEST_CASE("cow format: places do not overlap, and grains are aligned") {
  for (const uint64_t base_bytes : {512ULL, 65536ULL, 65537ULL * 512, 5ULL << 40U}) {
    CowHeader header = good_header();
    header.base_bytes = base_bytes;
    CHECK(cow_grains(header) * header.grain_bytes >= base_bytes);
    CHECK((cow_grains(header) - 1) * header.grain_bytes < base_bytes);
    CHECK(cow_table_bytes(header) * 8 >= cow_grains(header));
    CHECK(cow_data_at(header) >= kCowTableAt + cow_table_bytes(header));
    CHECK(cow_data_at(header) % header.grain_bytes == 0);
  }
}

TEST_CASE("cow format: what is no overlay is refused") {
  const CowPage empty{};
  CHECK_THAT(parse_cow_header(empty, "x.cow").error().message, Catch::Contains("x.cow is no over"));
  CHECK(!parse_cow_link(empty, kUuid, "x.cow").ok());
  CHECK(!parse_cow_state(empty, kUuid, "x.cow").ok());
}

TEST_CASE("cow format: every flipped bit of a record is seen") {
  const CowPage pages[] = {print_cow_header(good_header()),
                           print_cow_link({.uuid = kUuid, .older = kOther}),
                           print_cow_state({.uuid = kUuid, .reason = "full"})};
  for (size_t bit = 0; bit < size_t{8} * kCowPageBytes; ++bit) {
    CowPage flipped[3] = {pages[0], pages[1], pages[2]};
    for (CowPage& page : flipped) page[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
    const bool accepted = parse_cow_header(flipped[0], "x.cow").ok() ||
                          parse_cow_link(flipped[1], kUuid, "x.cow").ok() ||
                          parse_cow_state(flipped[2], kUuid, "x.cow").ok();
    if (accepted) FAIL("bit " << bit);
  }
}

TEST_CASE("cow format: a record torn between sectors is whole, or not there") {
  // Old in front, new behind, and the other way round: all that counts is in the first sector.
  const CowPage before = print_cow_state({.uuid = kUuid, .opens = 1});
  const CowPage after = print_cow_state({.uuid = kUuid, .opens = 2});
  for (size_t cut = 512; cut < kCowPageBytes; cut += 512) {
    CowPage torn = before;
    std::copy_n(after.begin(), cut, torn.begin());
    CHECK(parse_cow_state(torn, kUuid, "x.cow").value().opens == 2);
  }
}

TEST_CASE("cow format: headers with values that cannot be are refused") {
  CHECK(header_error([](auto&) {}).empty());
  CHECK_THAT(header_error([](auto& header) { header.version = 2; }), Catch::Contains("version 2"));
  CHECK_THAT(header_error([](auto& header) { header.uuid[8] = 'x'; }), Catch::Contains("UUID"));
  CHECK_THAT(header_error([](auto& header) { header.uuid[0] = 'F'; }), Catch::Contains("UUID"));
  CHECK_THAT(header_error([](auto& header) { header.uuid[35] = 0; }), Catch::Contains("UUID"));
  CHECK_THAT(header_error([](auto& header) { header.disk[200] = 'x'; }), Catch::Contains("disk"));
  CHECK_THAT(header_error([](auto& header) { header.disk[0] = 27; }), Catch::Contains("disk"));
  for (const uint32_t grain : {0U, 2048U, 65535U, 3U << 16U, 2U << 20U, 1U << 31U}) {
    CHECK_THAT(header_error([grain](auto& header) { header.grain_bytes = grain; }),
               Catch::Contains("grain"));
  }
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{513}, kCowMaxBaseBytes + 512, UINT64_MAX}) {
    CHECK_THAT(header_error([bytes](auto& header) { header.base_bytes = bytes; }),
               Catch::Contains("size"));
  }
  CHECK_THAT(header_error([](auto& header) { header.zeroes[100] = 1; }), Catch::Contains("zero"));
}

TEST_CASE("cow format: links with values that cannot be are refused") {
  CHECK(link_error([](auto&) {}).empty());
  CHECK(!link_error([](auto& link) { link.uuid[0] = '4'; }).empty());
  CHECK(!link_error([](auto& link) { link.older[0] = 'x'; }).empty());
  CHECK(!link_error([](auto& link) { link.has_older = 0; }).empty());
  CHECK(!link_error([](auto& link) { link.has_older = 2; }).empty());
  CHECK(!link_error([](auto& link) { std::memset(link.older, 0, sizeof(link.older)); }).empty());
  CHECK(!link_error([](auto& link) { std::memcpy(link.older, kUuid, 36); }).empty());
  CHECK(!link_error([](auto& link) { link.zeroes[0] = 1; }).empty());
}

TEST_CASE("cow format: states with values that cannot be are refused") {
  CHECK(state_error([](auto&) {}).empty());
  CHECK(!state_error([](auto& state) { state.uuid[3] = '0'; }).empty());
  CHECK(!state_error([](auto& state) { state.condition = 0; }).empty());
  CHECK(!state_error([](auto& state) { state.condition = 5; }).empty());
  CHECK(!state_error([](auto& state) { state.base_is_file = 2; }).empty());
  CHECK(!state_error([](auto& state) { state.reason[0] = 27; }).empty());
  CHECK(!state_error([](auto& state) { state.reason[100] = 'x'; }).empty());
  CHECK(!state_error([](auto& state) { state.zeroes[167] = 1; }).empty());
}

TEST_CASE("cow format: pages of another overlay are refused") {
  CHECK(!parse_cow_link(print_cow_link({.uuid = kOther, .older = ""}), kUuid, "x.cow").ok());
  CHECK(!parse_cow_state(print_cow_state({.uuid = kOther}), kUuid, "x.cow").ok());
  CHECK(!parse_cow_state(print_cow_link({.uuid = kUuid, .older = ""}), kUuid, "x.cow").ok());
}

TEST_CASE("cow format: a table knows what it has, also over several pages") {
  CowTable table(kCowGrainsPerPage + 100);
  REQUIRE(table.pages() == 2);
  CHECK(table.first_missing(0, table.grains()) == 0);
  for (uint64_t i = 0; i < kCowGrainsPerPage + 50; ++i) table.add(i);
  table.add(3);
  CHECK(table.kept() == kCowGrainsPerPage + 50);
  CHECK(table.first_missing(0, table.grains()) == kCowGrainsPerPage + 50);
  CHECK(table.first_missing(0, 100) == 100);
  CowTable read(table.grains());
  CHECK(read.load(0, table.page(0), "x.cow").ok());
  CHECK(read.load(1, table.page(1), "x.cow").ok());
  CHECK(read.kept() == table.kept());
  CHECK(read.first_missing(0, read.grains()) == kCowGrainsPerPage + 50);
  CHECK(read.load(1, table.page(1), "x.cow").ok());
  CHECK(read.kept() == table.kept());
}

TEST_CASE("cow format: a table with bits behind its last grain is refused") {
  for (const uint64_t grains : {1ULL, 8ULL, 100ULL, 101ULL}) {
    CowTable table(grains);
    for (const uint64_t bit : {grains, grains + 1, kCowGrainsPerPage - 1}) {
      CowPage page{};
      page[bit / 8] = static_cast<std::byte>(1U << bit % 8);
      CHECK(!table.load(0, page, "x.cow").ok());
      CHECK(table.kept() == 0);
    }
  }
}

TEST_CASE("cow format: UUIDs") {
  CHECK(is_cow_uuid(kUuid));
  CHECK(!is_cow_uuid(""));
  CHECK(!is_cow_uuid("3f2504e0-4f89-41d3-9a0c-0305e82c330"));
  CHECK(!is_cow_uuid("3f2504e0-4f89-41d3-9a0c-0305e82c33011"));
  CHECK(!is_cow_uuid("3F2504E0-4f89-41d3-9a0c-0305e82c3301"));
  CHECK(!is_cow_uuid("3f2504e0_4f89-41d3-9a0c-0305e82c3301"));
}

}  // namespace plumb
