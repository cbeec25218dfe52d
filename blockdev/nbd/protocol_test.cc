#include "blockdev/nbd/protocol.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <initializer_list>

#include "base/endian.h"

namespace plumb::nbd {
namespace {

Bytes bytes(std::initializer_list<int> values) {
  Bytes all;
  for (const int value : values) all.push_back(static_cast<std::byte>(value));
  return all;
}

// An option's header, as a client sends it.
Bytes option(uint64_t magic, uint32_t number, uint32_t length) {
  Bytes all(kOptionHeaderBytes);
  store_be(all.data(), magic);
  store_be(all.data() + 8, number);
  store_be(all.data() + 12, length);
  return all;
}
constexpr uint64_t kMagic = 0x49484156454f5054;

auto read_option(const Bytes& from) {
  return parse_option(std::span(from).first<kOptionHeaderBytes>());
}
auto read_flags(const Bytes& from) {
  return parse_client_flags(std::span(from).first<kClientFlagsBytes>());
}

}  // namespace

TEST_CASE("the greeting is that of fixed newstyle") {
  CHECK(greeting() == bytes({'N', 'B', 'D', 'M', 'A', 'G', 'I', 'C', 'I', 'H', 'A', 'V', 'E', 'O',
                             'P', 'T', 0, 3}));
}

TEST_CASE("a client may take the flags that were offered, and no others") {
  CHECK(read_flags(bytes({0, 0, 0, 0})).value() == 0);
  CHECK(read_flags(bytes({0, 0, 0, 3})).value() == (kFixedNewstyle | kNoZeroes));
  CHECK_FALSE(read_flags(bytes({0, 0, 0, 4})).ok());
  CHECK_FALSE(read_flags(bytes({0x80, 0, 0, 1})).ok());
}

TEST_CASE("an option is read, and one that is none, or too long, is refused") {
  const Option go = read_option(option(kMagic, kOptGo, 10)).value();
  CHECK(go.number == kOptGo);
  CHECK(go.data_bytes == 10);
  CHECK(read_option(option(kMagic, 0xffffffff, kMaxOptionBytes)).ok());
  CHECK_FALSE(read_option(option(kMagic + 1, kOptGo, 10)).ok());
  CHECK_FALSE(read_option(option(kMagic, kOptGo, kMaxOptionBytes + 1)).ok());
  CHECK_FALSE(read_option(option(kMagic, kOptGo, 0xffffffff)).ok());
}

TEST_CASE("a query names an export and what is asked of it, and no more or less") {
  CHECK(parse_info_query(bytes({0, 0, 0, 0, 0, 0})).value().empty());
  CHECK(parse_info_query(bytes({0, 0, 0, 2, 'a', 'b', 0, 1, 0, 3})).value() == "ab");
  for (const Bytes& bad :
       {bytes({}), bytes({0, 0, 0, 0, 0}), bytes({0, 0, 0, 1, 0, 0}), bytes({0, 0, 0, 0, 0, 1}),
        bytes({0, 0, 0, 0, 0, 0, 0}), bytes({0xff, 0xff, 0xff, 0xff, 0, 0}),
        bytes({0, 0, 0, 2, 'a', 'b', 0, 1, 0}), bytes({0, 0, 0, 1, 'a', 0xff, 0xff, 0, 0})}) {
    CHECK_FALSE(parse_info_query(bad).ok());
  }
  Bytes longest(4 + kMaxNameBytes + 1 + 2, std::byte{'a'});
  store_be(longest.data(), static_cast<uint32_t>(kMaxNameBytes + 1));
  store_be(longest.data() + longest.size() - 2, uint16_t{0});
  CHECK_FALSE(parse_info_query(longest).ok());
}

TEST_CASE("replies have the layout of the specification") {
  const ExportFacts facts{.name = "d",
                          .size_bytes = 0x1000,
                          .flags = kHasFlags | kReadOnly,
                          .min_block_bytes = 512,
                          .preferred_block_bytes = 4096,
                          .max_block_bytes = 1U << 25U};
  CHECK(option_reply(7, kRepErrUnknown, "no") ==
        bytes({0, 3,    0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0,   0,
               7, 0x80, 0,    0,    6, 0,    0,    0,    2, 'n', 'o'}));
  const Bytes info = info_replies(kOptGo, facts);
  REQUIRE(info.size() == (20 + 12) + (20 + 14) + 20);
  CHECK(Bytes(info.begin() + 20, info.begin() + 32) ==
        bytes({0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 3}));
  CHECK(Bytes(info.begin() + 52, info.begin() + 66) ==
        bytes({0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0}));
  CHECK(export_name_reply(facts, true) == bytes({0, 0, 0, 0, 0, 0, 0x10, 0, 0, 3}));
  CHECK(export_name_reply(facts, false).size() == 134);
  CHECK(server_reply("d") == bytes({0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 3,  0,
                                    0, 0, 2,    0,    0, 0,    5,    0,    0, 0, 1, 'd'}));
  CHECK(meta_context_reply(kOptSetMetaContext, 7, "a:b") ==
        bytes({0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0,   10,  0,  0,
               0, 4, 0,    0,    0, 7,    0,    0,    0, 7, 'a', ':', 'b'}));
}

TEST_CASE("a request is read, and what is none is refused") {
  Bytes from(kRequestBytes);
  store_be(from.data(), uint32_t{0x25609513});
  store_be(from.data() + 4, uint16_t{1});
  store_be(from.data() + 6, uint16_t{kFlush});
  store_be(from.data() + 8, uint64_t{0x1122334455667788});
  store_be(from.data() + 16, uint64_t{4096});
  store_be(from.data() + 24, uint32_t{512});
  const Request request = parse_request(std::span(from).first<kRequestBytes>()).value();
  CHECK(request.flags == 1);
  CHECK(request.command == kFlush);
  CHECK(request.cookie == 0x1122334455667788);
  CHECK(request.offset == 4096);
  CHECK(request.length == 512);
  from[0] = std::byte{0};
  CHECK_FALSE(parse_request(std::span(from).first<kRequestBytes>()).ok());
}

TEST_CASE("a simple reply has the protocol's own error numbers") {
  const auto number = [](int error) {
    return load_be<uint32_t>(simple_reply(0x0102030405060708, error).data() + 4);
  };
  CHECK(simple_reply(0x0102030405060708, 0) ==
        bytes({0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}));
  CHECK(number(EROFS) == 1);
  CHECK(number(EIO) == 5);
  CHECK(number(ENOMEM) == 12);
  for (const int full : {ENOSPC, EDQUOT, EFBIG}) CHECK(number(full) == 28);
  CHECK(number(EINVAL) == 22);
  CHECK(number(EOPNOTSUPP) == 95);
  CHECK(number(ENODEV) == 5);
}

TEST_CASE("chunks have the layout of the specification") {
  const ChunkOf part{.cookie = 0x0102030405060708, .done = false};
  const ChunkOf last{.cookie = 0x0102030405060708, .done = true};
  CHECK(data_chunk(part, 0x200, 0x1000) ==
        bytes({0x66, 0x8e, 0x33, 0xef, 0,    0, 0, 1, 1, 2, 3, 4, 5, 6,
               7,    8,    0,    0,    0x10, 8, 0, 0, 0, 0, 0, 0, 2, 0}));
  CHECK(hole_chunk(last, 0x200, 0x1000) ==
        bytes({0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7,    8,
               0,    0,    0,    12,   0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0x10, 0}));
  CHECK(none_chunk(part.cookie) ==
        bytes({0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0}));
  CHECK(error_chunk(part.cookie, EPERM, "no") ==
        bytes({0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 1, 2, 3, 4, 5,   6,
               7,    8,    0,    0,    0, 8, 0,    0, 0, 1, 0, 2, 'n', 'o'}));
  CHECK(error_offset_chunk(part.cookie, EIO, "no", 0x300) ==
        bytes({0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 2, 1,   2,   3, 4, 5, 6, 7, 8, 0, 0,
               0,    16,   0,    0,    0, 5, 0,    2, 'n', 'o', 0, 0, 0, 0, 0, 0, 3, 0}));
  const Extent extents[] = {{0x1000, 3}, {0x200, 0}};
  CHECK(block_status_chunk(last, 4, extents) ==
        bytes({0x66, 0x8e, 0x33, 0xef, 0, 1, 0,    5, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 20,
               0,    0,    0,    4,    0, 0, 0x10, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0}));
}

TEST_CASE("a query of metadata is read, and one of another length is refused") {
  const MetaQuery query =
      parse_meta_query(bytes({0, 0, 0, 1, 'd', 0, 0, 0, 2, 0, 0, 0, 2, 'a', ':', 0, 0, 0, 1, ':'}))
          .value();
  CHECK(query.export_name == "d");
  CHECK(query.queries == std::vector<std::string>{"a:", ":"});
  CHECK(parse_meta_query(bytes({0, 0, 0, 0, 0, 0, 0, 0})).value().queries.empty());
  for (const Bytes& bad : {bytes({}), bytes({0, 0, 0, 0}), bytes({0, 0, 0, 1, 0, 0, 0, 0}),
                           bytes({0, 0, 0, 0, 0, 0, 0, 1}), bytes({0, 0, 0, 0, 0, 0, 0, 0, 0}),
                           bytes({0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, ':'}),
                           bytes({0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'a'}),
                           bytes({0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, ':'}),
                           bytes({0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})}) {
    CHECK_FALSE(parse_meta_query(bad).ok());
  }
}

TEST_CASE("what an export and the client agreed on decides what is refused") {
  constexpr uint64_t kBytes = 1U << 20U;
  ExportFacts facts{.name = "d", .size_bytes = kBytes, .max_block_bytes = 65536};
  const Agreed plain;
  const Agreed all{.structured = true, .contexts = {0}};
  const auto of = [&](uint16_t command, uint64_t offset, uint32_t length, uint16_t flags = 0) {
    return Request{.flags = flags, .command = command, .offset = offset, .length = length};
  };
  SECTION("read-only") {
    facts.flags = kHasFlags | kReadOnly | kSendFlush;
    CHECK(refusal(of(kRead, 1, 65535), facts, plain) == 0);
    CHECK(refusal(of(kRead, 0, 65537), facts, plain) == EINVAL);
    CHECK(refusal(of(kRead, 0, 1, kFua), facts, plain) == EINVAL);
    CHECK(refusal(of(kRead, 0, 1, kDoNotFragment), facts, plain) == EINVAL);
    CHECK(refusal(of(kRead, 0, 1, kDoNotFragment), facts, all) == 0);
    for (const uint16_t command : {kWrite, kTrim, kWriteZeroes}) {
      CHECK(refusal(of(command, 0, 512), facts, all) == EPERM);
    }
    CHECK(refusal(of(kFlush, 0, 0), facts, plain) == 0);
    CHECK(refusal(of(kFlush, 1, 0), facts, plain) == EINVAL);
    CHECK(refusal(of(kBlockStatus, 0, kBytes), facts, plain) == EINVAL);
    CHECK(refusal(of(kBlockStatus, 0, kBytes, kReqOne), facts, all) == 0);
    CHECK(refusal(of(kBlockStatus, 1, kBytes), facts, all) == EINVAL);
    CHECK(refusal(of(kBlockStatus, 0, 1), facts, {.structured = true, .contexts = {}}) == EINVAL);
    CHECK(refusal(of(5, 0, 512), facts, all) == EINVAL);
  }
  SECTION("writable") {
    facts.flags = kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes;
    facts.min_block_bytes = 512;
    CHECK(refusal(of(kWrite, 512, 1024, kFua), facts, plain) == 0);
    CHECK(refusal(of(kWrite, 512, 1024, kNoHole), facts, plain) == EINVAL);
    CHECK(refusal(of(kWrite, 511, 1024), facts, plain) == EINVAL);
    CHECK(refusal(of(kWrite, 512, 1025), facts, plain) == EINVAL);
    CHECK(refusal(of(kWrite, 0, 66048), facts, plain) == EINVAL);
    CHECK(refusal(of(kWrite, kBytes, 512), facts, plain) == ENOSPC);
    CHECK(refusal(of(kWrite, UINT64_MAX - 511, 512), facts, plain) == ENOSPC);
    CHECK(refusal(of(kWriteZeroes, 0, kBytes, kNoHole | kFua), facts, plain) == 0);
    CHECK(refusal(of(kWriteZeroes, 0, kBytes, 1U << 4U), facts, plain) == EINVAL);  // FAST_ZERO
    CHECK(refusal(of(kWriteZeroes, 512, kBytes), facts, plain) == ENOSPC);
    CHECK(refusal(of(kTrim, 0, kBytes, kFua), facts, plain) == 0);
    CHECK(refusal(of(kTrim, 512, kBytes), facts, plain) == EINVAL);
    CHECK(refusal(of(kTrim, 0, 0), facts, plain) == EINVAL);
    CHECK(refusal(of(kRead, 3, 5, kFua), facts, plain) == 0);
    facts.flags = kHasFlags | kSendFlush | kSendFua;
    CHECK(refusal(of(kTrim, 0, 512), facts, plain) == EINVAL);
    CHECK(refusal(of(kWriteZeroes, 0, 512), facts, plain) == EINVAL);
  }
}

}  // namespace plumb::nbd
